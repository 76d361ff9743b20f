"""Keeps two jobs from writing into one stage's folder: a lock that ends with the process that holds it.

The lock is advisory (`flock`) and the kernel's: whoever is killed leaves none behind. On a file system without locks
nothing is held, and that is said.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from pipeline.beside import Beside, at_the_end, under_way
from pipeline.configuration import open_own
from pipeline.errors import RunFolderError

_LOCK = ".lock"
_KEPT: list[TextIO] = []
_WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


@contextlib.contextmanager
def exclusive(folder: Path, stage: str) -> Iterator[None]:
    """Holds `folder` for this process while the block runs.

    Args:
        folder: Made if absent. The file `.lock` in it says who holds it, and is empty while nobody does; it is never
            removed, because a lock on a removed file keeps nobody out.
        stage: What writes into it, a noun.

    Raises:
        RunFolderError: Another process holds it, or `.lock` is a link.
        StorageError: Its storage neither answers nor refuses.
    """
    file = Beside().do(lambda: _locked(folder, stage), f"Locking {folder}")
    before = under_way()
    try:
        yield
    finally:
        if under_way() - before:
            # Somebody is still writing, though nobody waits for it any more: the lock goes with the process.
            _KEPT.append(file)
        else:
            at_the_end(lambda: _release(file), f"Releasing the lock of {folder}")


def _locked(folder: Path, stage: str) -> TextIO:
    """Returns the file that is locked until it is closed."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open_own(folder / _LOCK))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunFolderError(
                f"{folder} is written by {_holder(file, stage)}; expected one {stage} at a time. "
                "Wait for it or end it, or choose another --name."
            ) from error
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise
            print(f"{folder} cannot be locked ({error.strerror}): see that no other job writes into it.", flush=True)
        _write(file, {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")})
        stack.pop_all()
    return file


def _release(file: TextIO) -> None:
    with file:
        file.truncate(0)


def _write(file: TextIO, holder: dict[str, object]) -> None:
    file.truncate(0)  # what a killed process left; append mode then writes at the start
    file.write(json.dumps(holder))
    file.flush()


def _holder(file: TextIO, stage: str) -> str:
    file.seek(0)
    try:
        holder = json.loads(file.read())
        return f"the {stage} of process {holder['pid']} on {holder['host']} since {holder['since']}"
    except ValueError:  # it has the lock, but has not written its name yet
        return f"another {stage}"
