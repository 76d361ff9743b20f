"""Folders that appear, are replaced and go as a whole, whatever is killed meanwhile.

While a folder `X` is written it is `.partial-X.*`; the one that it replaces is `.replaced-X` for the moment between two
renames; one that goes is `.deleted-X.*`. Only complete folders ever have the name `X`.
"""

import contextlib
import logging
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

_PARTIAL, _REPLACED, _DELETED = ".partial-", ".replaced-", ".deleted-"


@contextlib.contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Gives an empty folder to fill, which takes the place of `folder` when the block ends without an error.

    Raises:
        OSError: The file system refuses; what `folder` was before is still there.
    """
    # A name of its own: the process of a lost worker may still be writing the same one.
    partial = _named(_PARTIAL, folder)
    try:
        partial.mkdir(parents=True)
        yield partial
        _put_in_place(partial, folder)
    finally:
        # What remains here is cleared at the next start.
        shutil.rmtree(partial, ignore_errors=True)


def _put_in_place(partial: Path, folder: Path) -> None:
    if not folder.exists():
        partial.rename(folder)
        return
    replaced = folder.with_name(f"{_REPLACED}{folder.name}")
    if replaced.exists():
        discard(replaced)
    folder.rename(replaced)
    try:
        partial.rename(folder)
    except OSError:
        replaced.rename(folder)
        raise
    discard(replaced)


def discard(folder: Path) -> None:
    """Removes a folder; what the storage does not let go of is told, and left to `remove_discarded`."""
    try:
        # Renamed first: a deletion that is interrupted leaves no part of a folder under its name.
        doomed = folder.rename(_named(_DELETED, folder))
    except OSError as error:
        _tell(folder, error)
    else:
        _remove(doomed)


def remove_discarded(parent: Path) -> None:
    """Removes what an earlier `discard` could not."""
    for doomed in parent.glob(f"{_DELETED}*"):
        _remove(doomed)


def recover(parent: Path) -> None:
    """Puts in order what a killed process left in `parent`: what was being replaced is back, parts are gone.

    Raises:
        OSError: The file system refuses.
    """
    for replaced in parent.glob(f"{_REPLACED}*"):
        folder = parent / replaced.name.removeprefix(_REPLACED)
        if folder.exists():
            discard(replaced)
        else:
            replaced.rename(folder)
    for partial in parent.glob(f"{_PARTIAL}*"):
        _remove(partial)
    remove_discarded(parent)


def _named(prefix: str, folder: Path) -> Path:
    return folder.with_name(f"{prefix}{folder.name}.{uuid.uuid4().hex}")


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        _tell(folder, error)


def _tell(folder: Path, error: OSError) -> None:
    logger.warning("%s could not be removed (%s); it is tried again later.", folder, error)
