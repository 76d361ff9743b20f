"""Bytes under any URI that pyarrow understands: a local path, `s3://bucket/folder`, `gs://...`."""

import os
import re
from pathlib import Path
from typing import Any

from pyarrow import fs

from pipeline.configuration import write_atomically
from pipeline.errors import StorageError

Location = str | Path


def is_remote(location: Location) -> bool:
    """Whether `location` is a URI of something else than the local disk."""
    return "://" in str(location) and not str(location).startswith("file://")


def join(location: Location, name: str) -> str:
    """Returns the location of `name` below `location`; a URI keeps its options, `s3://bucket/folder?region=...`."""
    head, mark, options = str(location).partition("?") if is_remote(location) else (str(location), "", "")
    return f"{head.rstrip('/')}/{name}{mark}{options}"


class Folder:
    """A folder, local or remote.

    Args:
        location: Local path or URI.

    Raises:
        StorageError: A URI that pyarrow cannot open.
    """

    def __init__(self, location: Location) -> None:
        self.location = str(location)
        try:
            if "://" in self.location:
                self._filesystem, self._path = fs.FileSystem.from_uri(self.location)
            else:
                self._filesystem, self._path = fs.LocalFileSystem(), os.path.abspath(self.location)  # noqa: PTH100
        except (OSError, ValueError, TypeError) as error:
            raise StorageError(
                f"location is '{self}'; expected a path or a URI that pyarrow can open ({error})."
            ) from error

    def __str__(self) -> str:
        """The location for people: without the credentials that a URI may hold."""
        return re.sub("//[^/@]*@", "//", self.location)

    @property
    def local(self) -> Path | None:
        """Its path where it lies on a disk or a mount of this machine, else None."""
        return Path(self._path) if isinstance(self._filesystem, fs.LocalFileSystem) else None

    def exists(self, name: str) -> bool:
        """Whether the file `name` is there."""
        try:
            return bool(self._filesystem.get_file_info(self._file(name)).type == fs.FileType.File)
        except OSError as error:
            raise self._error(name, "read", error) from error

    def names(self) -> list[str]:
        """Returns the names of the folder's files, sorted; [] if the folder is not there."""
        try:
            found = self._filesystem.get_file_info(fs.FileSelector(self._path, allow_not_found=True))
        except OSError as error:
            raise self._error("", "listed", error) from error
        return sorted(info.base_name for info in found if info.type == fs.FileType.File)

    def read(self, name: str) -> bytes:
        """Returns the bytes of the file `name`.

        Raises:
            StorageError: It cannot be read.
        """
        try:
            with self._filesystem.open_input_file(self._file(name)) as stream:
                return bytes(stream.read())
        except OSError as error:
            raise self._error(name, "read", error) from error

    def open(self, name: str) -> Any:
        """Returns the file `name`, opened to read parts of it; the caller closes it.

        Raises:
            StorageError: It cannot be opened.
        """
        try:
            return self._filesystem.open_input_file(self._file(name))
        except OSError as error:
            raise self._error(name, "read", error) from error

    def write(self, name: str, content: bytes) -> None:
        """Writes the file `name` so that a reader sees all of it or nothing.

        An object store shows an object once it is complete; a local file gets its name once it is complete.

        Raises:
            StorageError: It cannot be written.
        """
        path = self._file(name)
        try:
            if isinstance(self._filesystem, fs.LocalFileSystem):
                write_atomically(Path(path), content)
            else:
                with self._filesystem.open_output_stream(path) as stream:
                    stream.write(content)
        except OSError as error:
            raise self._error(name, "written", error) from error

    def remove(self, name: str) -> None:
        """Removes the file `name`.

        Raises:
            StorageError: It cannot be removed.
        """
        try:
            self._filesystem.delete_file(self._file(name))
        except OSError as error:
            raise self._error(name, "removed", error) from error

    def _file(self, name: str) -> str:
        return f"{self._path}/{name}"

    def _error(self, name: str, done: str, error: OSError) -> StorageError:
        return StorageError(
            f"{self}/{name} could not be {done} ({error}); expected a location that exists and allows it."
        )
