"""SIGTERM in a training worker: the notice of a spot instance becomes a checkpoint instead of a crash.

Ray's workers answer SIGTERM by ending at once, in the middle of a step. Only a process's main thread may set another
handler, and Ray Train runs the training in a thread of its own: so a callback of the worker group sets it, whose
functions run in the main thread. While nothing trains, Ray's own handler does what it always did.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from ray.train.v2._internal.execution.callback import WorkerGroupCallback

_told = threading.Event()
_training = threading.Event()


class HandledInWorkers(WorkerGroupCallback):  # type: ignore[misc]
    """Sets the handler in every worker, before its training starts."""

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Ray Train calls this in the controller once all workers are up."""
        worker_group.execute(_handle)


def requested() -> bool:
    """Returns whether this process was told to end."""
    return _told.is_set()


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """While the block runs, a first SIGTERM is only noted."""
    _training.set()
    try:
        yield
    finally:
        _training.clear()


def _handle() -> None:
    previous = signal.getsignal(signal.SIGTERM)

    def note(number: int, frame: FrameType | None) -> None:
        if _training.is_set() and not _told.is_set():
            _told.set()
        elif callable(previous):
            previous(number, frame)

    signal.signal(signal.SIGTERM, note)
