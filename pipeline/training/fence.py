"""Keeps the process of a lost worker from writing into a run that goes on elsewhere: a fencing token.

A worker outlives its driver, or the Ray of its node, for seconds, or for as long as a network is cut. Whoever continues
the run first writes a token of its own into the run's folder; who finds another one there has lost the run.
"""

import os
import socket
import uuid
from pathlib import Path

from pipeline.configuration import open_own
from pipeline.errors import RunFolderError

_TOKEN = ".writer"


class Fence:
    """The right to write into `parent`, taken from whoever had it.

    Raises:
        OSError: The token cannot be written.
        RunFolderError: What stands there is a link.
    """

    def __init__(self, parent: Path) -> None:
        self._path = parent / _TOKEN
        self._token = f"{uuid.uuid4().hex} process {os.getpid()} on {socket.gethostname()}"
        # In place: an NFS client sees that at its next open, and a file renamed over another one up to a minute later.
        # Who reads half of it has lost the run already.
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open_own(self._path) as file:
            file.truncate(0)
            file.write(self._token)

    def check(self) -> None:
        """Returns if the run is still this process's: called right before something is renamed or removed.

        Raises:
            RunFolderError: Another worker has taken over the run.
            OSError: The token cannot be read.
        """
        found = self._path.read_text()
        if found != self._token:
            holder = found.partition(" ")[2] or "another process"
            raise RunFolderError(
                f"{self._path.parent} is written by {holder}; expected this one, process {os.getpid()} on "
                f"{socket.gethostname()}, to be the last that began. Another worker has taken over the run and goes "
                "on with it: this one ends."
            )
