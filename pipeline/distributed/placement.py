"""Gives up a training whose workers find no room: Ray Train itself asks the cluster again and again, for ever.

A callback in Ray Train's controller, because only there a run ends in order: its placement group is removed, its actors
end, and `fit` raises what the callback raised.
"""

import time
from typing import Any

from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller.state import (
    InitializingState,
    ReschedulingState,
    RestartingState,
    SchedulingState,
)

from pipeline.distributed.worker_resources import WorkerResources
from pipeline.errors import ClusterError

_WITHOUT_WORKERS = (InitializingState, SchedulingState, ReschedulingState, RestartingState)


class StartLimit(ControllerCallback):  # type: ignore[misc]
    """Ends the run when its workers, at the start or after a failure, are not placed in time.

    Args:
        resources: The workers.
        seconds: How long they are waited for. Looked at between Ray's attempts, each of which takes up to 60 s.
    """

    def __init__(self, resources: WorkerResources, seconds: float) -> None:
        self._resources, self._seconds = resources, seconds
        self._since: float | None = None

    def after_controller_state_update(self, _previous: Any, current: Any) -> None:
        """Ray Train calls this in the controller, at least once for each attempt to place the workers.

        Raises:
            ClusterError: The time is over.
        """
        if not isinstance(current, _WITHOUT_WORKERS):
            self._since = None
            return
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since > self._seconds:
            raise ClusterError(
                f"The cluster had no room for {self._resources} within training.start_timeout_s, {self._seconds:g} s; "
                "expected it to have or to start nodes for them. Lower training.num_workers, training.cpus_per_worker "
                "or training.gpus_per_worker, or raise training.start_timeout_s, and run the same command again."
            )
