"""Local copies of remote data sets: HDF5 and Minari read local files alone."""

import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

from pyarrow import fs

from pipeline.data.storage import Folder, is_remote
from pipeline.errors import StorageError


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
    info = filesystem.get_file_info(path)
    if info.type == fs.FileType.NotFound:
        raise FileNotFoundError(f"{path} does not exist")
    files = [info]
    if info.type == fs.FileType.Directory:
        files = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    facts = sorted((file.path, file.size, file.mtime_ns) for file in files if file.type == fs.FileType.File)
    return hashlib.sha256(repr((filesystem.type_name, facts)).encode()).hexdigest()[:16]


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
        if filesystem.get_file_info(path).type == fs.FileType.Directory:
            partial.mkdir()
        fs.copy_files(path, str(partial), source_filesystem=filesystem, destination_filesystem=fs.LocalFileSystem())
        _publish(partial, final)
    finally:
        shutil.rmtree(partial.parent, ignore_errors=True)


def _publish(partial: Path, final: Path) -> None:
    try:
        partial.rename(final)
    except OSError:
        # Another process of this machine was faster; its copy is as good.
        if not final.exists():
            raise
