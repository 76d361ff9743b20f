"""Local copies of remote data sets: HDF5 and Minari read local files alone."""

import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path, PurePosixPath

from pyarrow import fs

from pipeline.data.storage import Folder, is_remote
from pipeline.errors import StorageError

_COPIED_BYTES = 2**22


def local_copy(location: str) -> Path:
    """Returns a local path of a file or folder; a remote one is copied once per machine and version.

    The copy lies in the machine's temporary folder under a name made of the location and of its files' sizes and dates,
    so a data set that was replaced is copied again. It gets that name only when it is whole, so several processes may
    ask at once.

    Args:
        location: Local path or URI.

    Raises:
        StorageError: The URI cannot be read.
    """
    if not is_remote(location):
        return Path(location.removeprefix("file://"))
    try:
        filesystem, path = fs.FileSystem.from_uri(location)
        final = _private_folder() / _version(filesystem, path) / Path(path).name
        if not final.exists():
            _copy(filesystem, path, final)
    except (OSError, ValueError) as error:
        raise StorageError(
            f"{Folder(location)} could not be copied to {tempfile.gettempdir()} ({error}); expected a readable data "
            "set, and room."
        ) from error
    return final


def _version(filesystem: "fs.FileSystem", path: str) -> str:
    """Returns a name for what lies at `path` now."""
    facts = sorted((file.path, file.size, file.mtime_ns) for file in _files(filesystem, path))
    return hashlib.sha256(repr((filesystem.type_name, facts)).encode()).hexdigest()[:16]


def _files(filesystem: "fs.FileSystem", path: str) -> "list[fs.FileInfo]":
    """Returns the files at and below `path`.

    Raises:
        FileNotFoundError: There is nothing.
    """
    info = filesystem.get_file_info(path)
    if info.type == fs.FileType.NotFound:
        raise FileNotFoundError(f"{path} does not exist")
    if info.type == fs.FileType.File:
        return [info]
    below = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    return [file for file in below if file.type == fs.FileType.File]


def _private_folder() -> Path:
    """Returns this user's folder in the machine's temporary folder, made if it is not there.

    Raises:
        PermissionError: Somebody else made a folder of that name, and could put other data into it.
    """
    folder = Path(tempfile.gettempdir()) / f"pipeline-datasets-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
        raise PermissionError(f"{folder} belongs to somebody else")
    return folder


def _copy(filesystem: "fs.FileSystem", path: str, final: Path) -> None:
    final.parent.mkdir(exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=final.parent)) / final.name
    try:
        # One by one: a bucket's keys are any text, and `copy_files` would follow `..` out of the folder.
        for file in _files(filesystem, path):
            target = partial / _inside(path, file.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            with filesystem.open_input_stream(file.path) as source, target.open("xb") as sink:
                shutil.copyfileobj(source, sink, _COPIED_BYTES)
        _publish(partial, final)
    finally:
        shutil.rmtree(partial.parent, ignore_errors=True)


def _inside(path: str, file: str) -> PurePosixPath:
    """Returns where below `path` a file lies.

    Raises:
        ValueError: Its name leads out of it.
    """
    inside = PurePosixPath(file).relative_to(path)
    if ".." in inside.parts:
        raise ValueError(f"{file} leads out of {path}")
    return inside


def _publish(partial: Path, final: Path) -> None:
    try:
        partial.rename(final)
    except OSError:
        # Another process of this machine was faster; its copy is as good.
        if not final.exists():
            raise
