"""The notice that a training worker will end, SIGTERM or its node's drain, becomes a checkpoint instead of a crash.

Ray's workers answer SIGTERM by ending at once, in the middle of a step. Only a process's main thread may set another
handler, and Ray Train runs the training in a thread of its own: so a callback of the worker group sets it, whose
functions run in the main thread. While nothing trains, Ray's own handler does what it always did.

A node is drained by the cluster's manager or by `ray drain-node`. Ray Train's watcher, looking every 5 s, tells all
workers; its public `get_preemption_info` makes them wait for each other at every look, where ours agree by themselves.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from ray.exceptions import RayActorError
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.context import get_train_context

_told = threading.Event()
_training = threading.Event()


class HandledInWorkers(WorkerGroupCallback):  # type: ignore[misc]
    """Sets the handler in every worker, before its training starts."""

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Ray Train calls this in the controller once all workers are up."""
        worker_group.execute(_handle)


class ToldToEndError(RayActorError):  # type: ignore[misc]
    """A worker ends because it was told to; its checkpoint is written, and Ray Train places another.

    In Ray Train's words it was preempted, and preemptions are no failures: it counts them apart, without a limit.
    """

    def __init__(self) -> None:
        super().__init__(error_msg="a worker was told to end, and has written a checkpoint", preempted=True)


def requested() -> bool:
    """Returns whether this process was told to end, or a worker's node is drained. Only for Ray Train's workers."""
    return _told.is_set() or get_train_context().preemption_context.preemption_info is not None


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
