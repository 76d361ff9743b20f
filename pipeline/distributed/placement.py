"""Ends a training whose workers find no room or failed for good, or that is to stop meanwhile.

Ray Train asks the cluster for ever, and starts workers again whatever they failed of.

A callback in Ray Train's controller, because only there a run ends in order: its placement group is removed, its actors
end, and `fit` raises what the callback raised.

Not bounded: a node that dies after its workers were placed and before their processes are up. Ray Train's controller
then waits in a `ray.get` until the cluster has room again, and calls no callback; a second Ctrl-C ends the job.
"""

import time
from pathlib import Path
from typing import Any

from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller.state import (
    InitializingState,
    ReschedulingState,
    RestartingState,
    SchedulingState,
)

from pipeline.distributed.room import cluster_in_words
from pipeline.distributed.worker_resources import WorkerResources
from pipeline.errors import ClusterError, PipelineError

_WITHOUT_WORKERS = (InitializingState, SchedulingState, ReschedulingState, RestartingState)


class StoppedWithoutWorkersError(Exception):
    """The run was asked to stop while no worker was there that could have written a checkpoint; none is missing."""


def workers_user_error(error: BaseException | None) -> PipelineError | None:
    """Returns what a user can put right among the failures of workers, None where there is nothing of that kind.

    Args:
        error: Ray Train's, of all workers. What others of them say, whose connections closed, only follows from it.
    """
    failures = getattr(error, "worker_failures", {}).values()
    return next((failure for failure in failures if isinstance(failure, PipelineError)), None)


class StartLimit(ControllerCallback):  # type: ignore[misc]
    """Ends the run when its workers are not placed in time, at the start or after a failure, or need not be any more.

    Args:
        resources: The workers.
        seconds: How long they are waited for. Looked at between Ray's attempts, each of which takes up to 5 s.
        stop_request: The file whose existence asks the run to stop.
    """

    def __init__(self, resources: WorkerResources, seconds: float, stop_request: Path) -> None:
        self._resources, self._seconds, self._stop_request = resources, seconds, stop_request
        self._since: float | None = None

    def after_controller_state_update(self, _previous: Any, current: Any) -> None:
        """Ray Train calls this in the controller, at least once for each attempt to place the workers.

        Raises:
            PipelineError: A worker ended with it, so it would again; as it was said there.
            ClusterError: The time is over.
            StoppedWithoutWorkersError: The run was asked to stop.
        """
        told = workers_user_error(getattr(current, "training_failed_error", None))
        if told is not None:
            raise told
        if not isinstance(current, _WITHOUT_WORKERS):
            self._since = None
            return
        if self._stop_request.exists():
            raise StoppedWithoutWorkersError
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since > self._seconds:
            raise ClusterError(
                f"The cluster had no room for {self._resources} within workers.start_timeout_s, {self._seconds:g} s; "
                f"expected it to have or to start nodes for them. {cluster_in_words()} Lower "
                "workers.number, workers.cpus or workers.gpus, or raise workers.start_timeout_s, and run the same "
                "command again."
            )
