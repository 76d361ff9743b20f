"""Compiles loops with Numba and keeps the result for other processes, wherever this one may write.

Numba's own places are `__pycache__` beside the code and a folder in the home folder (or NUMBA_CACHE_DIR). In an image
of root's that another user runs both may be closed; without a third, every process would compile for itself.
"""

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function, arithmetic: set[str]) -> Function:
    """Compiles at the first call, or takes the result of an earlier process; runs without the interpreter's lock.

    Args:
        function: What Numba can compile.
        arithmetic: What the compiler may do to floating-point arithmetic, as LLVM's flags.
    """
    options = {"nogil": True, "error_model": "numpy", "fastmath": arithmetic}
    try:
        return cast(Function, numba.njit(cache=True, **options)(function))
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
    folder = private_folder(Path(tempfile.gettempdir()))
    if folder is not None:
        numba.config.CACHE_DIR = str(folder)
    return cast(Function, numba.njit(cache=folder is not None, **options)(function))


def private_folder(temporary: Path) -> Path | None:
    """Returns a folder in `temporary` that this user alone can write to, None where there can be none.

    What lies there is unpickled, so one that another user made, or can write to, is left alone.
    """
    folder = temporary / f"trajectory-pipeline-numba-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return None
    is_private = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
    return folder if is_private else None
