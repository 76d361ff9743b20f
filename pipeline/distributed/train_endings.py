"""How Ray Train's `fit` ended, in words: what a user can put right, lost workers, or a defect as it is."""

from pathlib import Path

import ray
import ray.train
from ray.train.v2._internal.exceptions import (
    InsufficientClusterResourcesError,
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)

from pipeline.distributed.placement import StoppedWithoutWorkersError, workers_user_error
from pipeline.distributed.worker_resources import WorkerResources
from pipeline.errors import ClusterError, PipelineError, RunFolderError


def stopped_without_workers(error: BaseException) -> bool:
    """Returns whether `fit` ended because the run was asked to stop while no worker was there."""
    failure = error.controller_failure if isinstance(error, ray.train.ControllerError) else None
    return isinstance(failure, StoppedWithoutWorkersError)


def require_all_epochs(reported: int, epochs: int, stop_request: Path) -> None:
    """Checks that workers who ended without an error had nothing left to do.

    Args:
        reported: Epochs that the newest checkpoint has reported.
        epochs: Of the whole training.
        stop_request: The file that asks workers to stop.

    Raises:
        RunFolderError: They had.
    """
    if reported < epochs:
        raise RunFolderError(
            f"The workers ended, and {stop_request.parent} has {reported} of {epochs} epochs; expected all of them. "
            f"Whoever makes the file {stop_request.name} there asks them to stop; or a network file system does not "
            "show the last checkpoint yet. Run the same command again: it goes on from there."
        )


def explained(error: BaseException, resources: WorkerResources, max_failures: int, last: Path | None) -> BaseException:
    """Returns the error to raise: in words what a user can put right or lost workers, as it is a defect.

    Args:
        error: What `fit` raised.
        resources: The workers.
        max_failures: As configured.
        last: The newest checkpoint.
    """
    again = f"Run the same command again: it continues from {last.name if last else 'the start'}."
    if isinstance(error, ray.train.ControllerError):
        return _placement_error(error.controller_failure, resources, again) or error
    if isinstance(error, ray.exceptions.RayActorError):
        return ClusterError(
            f"The process that places and watches the workers ended ({_reason(error)}); expected it to outlive the "
            f"training. It runs on the machine of this job, which may be out of memory. {again}"
        )
    told = workers_user_error(error)
    if told is not None:
        return told
    lost = [told for told in map(_loss, getattr(error, "worker_failures", {}).values()) if told]
    if not lost:
        return error
    return ClusterError(
        f"Training lost its workers {max_failures + 1} times; expected at most workers.max_failures, "
        f"{max_failures}. The last time: {lost[0]}. {again}"
    )


def _placement_error(failure: BaseException, resources: WorkerResources, again: str) -> PipelineError | None:
    """Returns in words why the workers were not placed, None where the failure is a defect."""
    if isinstance(failure, PipelineError):
        return failure
    if isinstance(failure, InsufficientClusterResourcesError):
        # Ray's second line has the numbers; the others name settings that are not ours.
        numbers = str(failure).splitlines()[1]
        return ClusterError(
            f"The cluster can never have room for {resources}; expected no more than it can grow to. {numbers} Lower "
            "workers.number, workers.cpus or workers.gpus, or raise max_workers in the cluster's configuration. "
            f"{again}"
        )
    return None


def _loss(failure: BaseException) -> str | None:
    """Returns in words how a worker was lost, None where it failed. What fails beside a lost worker fails with it."""
    if isinstance(failure, WorkerHealthCheckFailedError):
        return _reason(failure.health_check_failure)
    return _reason(failure) if isinstance(failure, WorkerHealthCheckTimeoutError) else None


def _reason(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
