"""HDF5 files that others made: what they hold must lie in them.

HDF5 can name bytes of any file that the reader may read as a dataset's content, in four ways: soft and external links,
virtual datasets and external raw storage. And a dataset's size is only said, not shown by what is stored.
"""

from typing import Any

import h5py

from pipeline.errors import DataError

MOST_EXPANSION = 2000
"""Bytes in memory for one of the file. Deflate compresses zeros a thousandfold at most."""
_LITTLE = 2**20


def require_inside(parent: "h5py.Group", name: str) -> None:
    """Checks that an entry, with all below it, lies in its file, and is not larger than that can hold.

    Args:
        parent: Of the entry.
        name: Of the entry, without a slash; it must be there.

    Raises:
        DataError: It does not.
    """
    entry = entry_inside(parent, name)
    if isinstance(entry, h5py.Group):
        for below in entry:
            require_inside(entry, below)
    elif isinstance(entry, h5py.Dataset):
        if entry.external or entry.is_virtual:
            raise _refused(parent, name, "has its content in other files")
        stored = entry.file.id.get_filesize()
        if entry.nbytes > MOST_EXPANSION * stored + _LITTLE:
            raise _refused(parent, name, f"is said to have {entry.nbytes} bytes, in a file of {stored}")
    else:
        raise _refused(parent, name, "is neither a group nor a dataset")


def entry_inside(parent: "h5py.Group", name: str) -> Any:
    """Returns an entry that lies in its parent's file, whatever lies below it.

    Raises:
        DataError: It is a link to something else.
        KeyError: It is not there.
    """
    if not isinstance(parent.get(name, getlink=True), h5py.HardLink | type(None)):
        raise _refused(parent, name, "is a link to something else")
    return parent[name]


def _refused(parent: "h5py.Group", name: str, why: str) -> DataError:
    place = f"{parent.name.rstrip('/')}/{name}"
    return DataError(f"{place} of {parent.file.filename} {why}; expected data that lies in the file itself.")
