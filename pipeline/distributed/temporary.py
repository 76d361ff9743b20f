"""Where Ray in place keeps its sockets and logs: a folder of its own, `ray`, in a temporary one."""

import os
import tempfile
from pathlib import Path

from pipeline.errors import StorageError

SOCKET_BYTES = 107
"""The longest path that Linux allows a socket."""

NEEDED_BYTES = 16 * 2**20
"""Logs and sockets of a session; those of the tests and of the quickstart took 3 MB at most."""


def ray_folder() -> Path:
    """Returns an absolute folder for Ray, which can be written and has room.

    As Ray does it, in RAY_TMPDIR, else in TMPDIR, else in /tmp; but in /tmp too where TMPDIR, which batch systems set,
    is too long for sockets. That is told.

    Raises:
        StorageError: RAY_TMPDIR is too long, or the folder cannot be written or is full.
    """
    folder = _short_folder() / "ray"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, NEEDED_BYTES)
    except OSError as error:
        raise StorageError(
            f"Ray's folder for sockets and logs, {folder}, cannot be used ({error.strerror}); expected one that can be "
            f"written, with {NEEDED_BYTES >> 20} MiB of room. Set RAY_TMPDIR to another folder, whose path has at most "
            f"{longest_folder()} bytes."
        ) from error
    return folder


def _short_folder() -> Path:
    if given := os.environ.get("RAY_TMPDIR"):
        if _bytes(given) > longest_folder():
            raise StorageError(
                f"RAY_TMPDIR is '{given}', a path of {_bytes(given)} bytes; expected one of at most "
                f"{longest_folder()}, so that Ray's sockets in it have no more than {SOCKET_BYTES}. Set it to a "
                "shorter one, such as /tmp."
            )
        return Path(given).absolute()
    usual = os.environ.get("TMPDIR") or "/tmp"
    if _bytes(usual) <= longest_folder():
        return Path(usual).absolute()
    print(
        f"note: TMPDIR is '{usual}', a path of {_bytes(usual)} bytes, and sockets of Ray allow {longest_folder()}: "
        "its own files go to /tmp/ray. RAY_TMPDIR names another place.",
        flush=True,
    )
    return Path("/tmp")


def longest_folder() -> int:
    """Returns how many bytes the path of a folder may have in which a session of this process makes its sockets."""
    longest = f"/ray/session_2026-11-28_04-07-56_726441_{os.getpid()}/sockets/dash_MetricsHead"
    return SOCKET_BYTES - len(longest)


def _bytes(folder: str) -> int:
    return len(os.fsencode(Path(folder).absolute()))
