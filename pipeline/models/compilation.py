"""Compiles loops with Numba and keeps the result for other processes, wherever this one may write.

Numba's own places are `__pycache__` beside the code and a folder in the home folder (or NUMBA_CACHE_DIR). In an image
of root's that another user runs both may be closed; without a third, every process would compile for itself.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

from pipeline.models.private_folder import private_folder

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
    folder = private_folder(Path(tempfile.gettempdir()), "numba")
    if folder is not None:
        numba.config.CACHE_DIR = str(folder)
    return cast(Function, numba.njit(cache=folder is not None, **options)(function))
