"""Where compiled code is kept when its compiler's own places are closed."""

import os
import stat
import tempfile
from pathlib import Path


def private_folder(temporary: Path, compiler: str) -> Path | None:
    """Returns a folder in `temporary` that this user alone can write to, None where there can be none.

    What lies there is run, so one that another user made, or can write to, is left alone.
    """
    folder = temporary / f"trajectory-pipeline-{compiler}-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return None
    is_private = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
    return folder if is_private and is_writable(folder) else None


def is_writable(folder: Path) -> bool:
    """Returns whether files can be made in `folder`, which is made where it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True
