"""What it means that a file of a data set cannot be read: somebody writes it, the machine refuses, or it is damaged.

Only the last is a reason to fetch the data again, and none is one to remove it.
"""

import contextlib
import errno
from collections.abc import Iterator

from pipeline.errors import DataError, PipelineError, StorageError

# What h5py, Arrow and Minari raise where a file is cut off, an episode is missing, or an array has an odd type.
_READ_ERRORS = (OSError, LookupError, ValueError, TypeError, AssertionError, RuntimeError)

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_MISSING = (None, errno.ENOENT, errno.ENOTDIR)


@contextlib.contextmanager
def reading(what: str, expected: str) -> Iterator[None]:
    """Makes an error of the user's of whatever is raised in the `with` block because a file cannot be read.

    Args:
        what: Names what is read, and where it lies.
        expected: What it should have been.

    Raises:
        StorageError: The machine refuses; the data may be whole.
        DataError: The data is damaged or incomplete.
    """
    try:
        yield
    except PipelineError:  # said already; it is a ValueError too
        raise
    except _READ_ERRORS as error:
        raise _told(f"{what} cannot be read ({type(error).__name__}: {error})", expected, error) from error


def _told(found: str, expected: str, error: Exception) -> PipelineError:
    number = error.errno if isinstance(error, OSError) else None
    # HDF5 asks for a lock when it opens a file, and refuses one whose writer has left its mark in it.
    if number == errno.EAGAIN or "already open for write" in str(error):
        return StorageError(
            f"{found}; expected a file that nobody writes. Wait until the program that writes it has closed it; if it "
            "was killed, `h5clear --status` takes its mark away."
        )
    if number in _WITHOUT_LOCKS:
        return StorageError(
            f"{found}; expected a file system with locks. Set HDF5_USE_FILE_LOCKING=FALSE on every machine, and let "
            "nothing write the file meanwhile."
        )
    if number not in _MISSING:
        return StorageError(
            f"{found}; expected storage that gives this process the file. Look at its permissions and at the storage: "
            "the data itself may be whole."
        )
    return DataError(
        f"{found}; expected {expected}. The download may be incomplete: fetch or copy it again to another place, and "
        "remove nothing before the new one is read."
    )
