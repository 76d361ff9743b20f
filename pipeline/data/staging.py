"""Local copies of remote data sets: HDF5 and Minari read local files alone."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from pyarrow import fs

from pipeline.data.storage import is_remote
from pipeline.errors import StorageError


def local_copy(location: str) -> Path:
    """Returns a local path of a file or folder; a remote one is copied once per machine.

    The copy lies in the machine's temporary folder under a name made of the location, and gets that name only when it
    is whole, so several processes may ask at once. It is not renewed when the remote one changes.

    Args:
        location: Local path or URI.

    Raises:
        StorageError: The URI cannot be read.
    """
    if not is_remote(location):
        return Path(location.removeprefix("file://"))
    digest = hashlib.sha256(location.encode()).hexdigest()[:16]
    final = Path(tempfile.gettempdir()) / f"pipeline-datasets-{os.getuid()}" / digest / _name(location)
    if final.exists():
        return final
    final.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = Path(tempfile.mkdtemp(dir=final.parent)) / final.name
    try:
        _copy(location, partial)
        _publish(partial, final)
    except (OSError, ValueError) as error:
        raise StorageError(
            f"{location} could not be copied to {final.parent} ({error}); expected a readable data set, and room."
        ) from error
    finally:
        shutil.rmtree(partial.parent, ignore_errors=True)
    return final


def _name(location: str) -> str:
    return Path(location.partition("?")[0]).name


def _copy(location: str, target: Path) -> None:
    filesystem, path = fs.FileSystem.from_uri(location)
    info = filesystem.get_file_info(path)
    if info.type == fs.FileType.NotFound:
        raise FileNotFoundError(f"{location} does not exist")
    if info.type == fs.FileType.Directory:
        target.mkdir()
    fs.copy_files(path, str(target), source_filesystem=filesystem, destination_filesystem=fs.LocalFileSystem())


def _publish(partial: Path, final: Path) -> None:
    try:
        partial.rename(final)
    except OSError:
        # Another process of this machine was faster; its copy is as good.
        if not final.exists():
            raise
