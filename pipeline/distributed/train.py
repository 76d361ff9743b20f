"""Trains the model with Ray Train: places the workers, restarts lost ones, shows progress, stops in order.

Ray Train (V2) brings the workers, their process group, elastic sizes and restarts. Checkpoints are ours
(`pipeline.training.checkpoint`): they are found on disk and need no Ray, where Ray's own are listed in a snapshot that
is written in place, and are lost if reported after the controller's last poll.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.train.v2._internal.exceptions import InsufficientClusterResourcesError

from pipeline.configuration import claim_folder
from pipeline.data.manifest import Manifest
from pipeline.distributed import termination
from pipeline.distributed.placement import StartLimit, StoppedWithoutWorkersError, workers_user_error
from pipeline.distributed.session import joins_cluster
from pipeline.distributed.train_worker import (
    is_resident,
    make_schedule,
    make_task,
    stop_request,
    token_bytes,
    train_worker,
)
from pipeline.distributed.worker_resources import WorkerResources, worker_resources
from pipeline.errors import ClusterError, PipelineError
from pipeline.exclusive import exclusive
from pipeline.experiment import Experiment
from pipeline.models.trajectory_transformer import TrajectoryTransformer
from pipeline.progress import Progress
from pipeline.run_folder import RunFolder
from pipeline.training.checkpoint import best_checkpoint, last_checkpoint, read_info, require_same_tokens
from pipeline.training.initial import load_initial_weights
from pipeline.training.metrics import last_line
from pipeline.training.recorder import TrainingTask
from pipeline.training.storage import checkpoint_room, require_room

POLL_SECONDS = 0.25
QUIET_SECONDS = 10.0
"""Workers that are silent no longer than this, at the start, after a loss or in a long step, need no words."""

_KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
}
"""glibc gives freed memory back, and each page that comes again is a fault: with these a bfloat16 step of the paper's
hopper model (64 windows, one core) took 0.50 instead of 0.54 s, with 2 500 instead of 37 000 faults."""


def train(experiment: Experiment, run: RunFolder) -> None:
    """Trains until all epochs are done; continues where an earlier call was interrupted.

    On SIGTERM and Ctrl-C the workers write a checkpoint first; then the signal takes its usual course.

    Raises:
        ManifestError: There are no shards.
        RunFolderError: The run's checkpoints were made by another configuration or from other shards, or another
            process trains this run.
        CheckpointError: The checkpoint to continue from is corrupt, or made for another layout.
        StorageError: The run's folder cannot be written, or is too full.
        TrainingDivergedError: The loss became NaN or jumped.
        ClusterError: Workers were lost more often than training.max_failures, or cannot be placed.
    """
    task = make_task(experiment, run)
    schedule = make_schedule(task)
    model = TrajectoryTransformer(task.model, task.manifest.layout)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    require_room(run.checkpoints, checkpoint_room(parameters, task.training))
    with exclusive(run.checkpoints, "training"), Progress("train", schedule.total_steps, "steps") as progress:
        done = _prepare(task, model, experiment, run)
        if done >= schedule.total_steps:
            progress.finish(f"nothing to do: {_result(run)}")
            return
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        resources = worker_resources(experiment.training, nodes, joins_cluster(), not is_resident(task))
        print(_plan(task, resources), flush=True)
        _Fit(experiment, run, resources).wait(progress, run)
        progress.finish(_result(run))


def _prepare(task: TrainingTask, model: TrajectoryTransformer, experiment: Experiment, run: RunFolder) -> int:
    """Checks what is there before the first step, and returns the steps that are already done."""
    last = last_checkpoint(run.checkpoints)
    if last is not None:
        require_same_tokens(last, task.manifest)
    elif task.training.init_from is not None:
        load_initial_weights(model, task.training.init_from)
    claim_folder(run.checkpoints, training_identity(experiment, task.manifest), "checkpoints")
    return read_info(last).step if last else 0


def _plan(task: TrainingTask, resources: WorkerResources) -> str:
    """Returns, in one line, who trains and where the windows come from."""
    (least, most), count = task.training.worker_range, task.manifest.totals.steps
    number = str(least) if least == most else f"{least} to {most}"
    size = f"{count:,} transitions ({token_bytes(task) / 2**30:.2g} GiB of tokens)"
    limit = f"training.resident_gib {task.training.resident_gib:g}"
    source = f"held by every worker, {limit}" if is_resident(task) else f"streamed through Ray Data, above {limit}"
    gpus = f", {resources.gpus:g} GPUs" if resources.gpus else ""
    return f"train     {number} x {resources.cpus:g} CPUs{gpus} · {size} {source}"


def training_identity(experiment: Experiment, manifest: Manifest) -> dict[str, Any]:
    """Returns everything that decides what a training gives."""
    return {
        "seed": experiment.seed,
        "model": experiment.model.identity(),
        "training": experiment.training.identity(),
        "shards": hashlib.sha256(manifest.to_json().encode()).hexdigest(),
    }


def _result(run: RunFolder) -> str:
    """Returns what the training came to, in words."""
    last = last_checkpoint(run.checkpoints)
    assert last is not None
    info, best = read_info(last), read_info(best_checkpoint(run.checkpoints))
    loss = "no held-out episodes" if best.validation_loss is None else f"validation loss {best.validation_loss:.4f}"
    return f"{info.epoch} epochs, {info.step:,} steps, {loss} at epoch {best.epoch}"


class _Fit:
    """`TorchTrainer.fit()` in a thread of its own, so that this one can show progress and take signals."""

    def __init__(self, experiment: Experiment, run: RunFolder, resources: WorkerResources) -> None:
        stop_request(run).unlink(missing_ok=True)
        settings = experiment.model_dump(mode="json")
        if experiment.training.init_from is not None:
            # Workers have working directories of their own.
            settings["training"]["init_from"] = str(Path(experiment.training.init_from).resolve())
        recipe = {
            "experiment": settings,
            "root": str(run.root),
            "threads": max(1, int(resources.cpus)),
        }
        self._trainer = ray.train.torch.TorchTrainer(
            train_worker,
            train_loop_config=recipe,
            scaling_config=ray.train.ScalingConfig(
                num_workers=resources.num_workers,
                use_gpu=resources.gpus > 0,
                resources_per_worker=resources.of_one_worker,
                elastic_resize_monitor_interval_s=experiment.training.resize_interval_s,
            ),
            run_config=ray.train.RunConfig(
                # Nothing is reported to Ray, so its folder stays empty; a name of its own keeps it from looking back.
                name=f"fit-{time.time_ns()}",
                storage_path=str(run.root / "ray"),
                worker_runtime_env={} if resources.gpus else {"env_vars": _not_set(_KEEP_FREED_MEMORY)},
                failure_config=ray.train.FailureConfig(max_failures=experiment.training.max_failures),
                callbacks=[
                    termination.HandledInWorkers(),
                    StartLimit(resources, experiment.training.start_timeout_s, stop_request(run)),
                ],
                # As ERROR the controller prints a traceback for each minute without room; what ends the run is raised.
                logging_config=ray.train.LoggingConfig(log_level="CRITICAL"),
            ),
        )
        self._resources = resources
        self._max_failures = experiment.training.max_failures
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._fit, name="fit", daemon=True)

    def _fit(self) -> None:
        try:
            self._trainer.fit()
        except BaseException as error:  # raised again where it is waited for
            self._error = error

    def wait(self, progress: Progress, run: RunFolder) -> None:
        """Shows progress until the workers have ended."""
        self._thread.start()
        news, shown = time.monotonic(), last_line(run.metrics)
        waited_for = "the first steps"
        with _orderly_signals(run) as received:
            while self._thread.is_alive():
                self._thread.join(POLL_SECONDS)
                line = last_line(run.metrics)
                if received:
                    progress.wait("the workers to write a checkpoint and end; the same signal again ends at once")
                elif line is not None and line != shown:
                    _show(progress, line)
                    news, shown, waited_for = time.monotonic(), line, f"steps after {line['step']:,}"
                elif time.monotonic() - news > QUIET_SECONDS:
                    progress.wait(f"{waited_for} of {self._resources}")
        # Ray's own record of the run, in which nothing is; with those that killed drivers left.
        if (run.root / "ray").exists():
            shutil.rmtree(run.root / "ray")
        if received and (self._error is None or _stopped_without_workers(self._error)):
            signal.raise_signal(received[0])
        if self._error is not None:
            told = explained(self._error, self._resources, self._max_failures, last_checkpoint(run.checkpoints))
            raise told from (None if told is self._error else self._error)


def _not_set(variables: dict[str, str]) -> dict[str, str]:
    """Returns those of `variables` that the user has not set."""
    return {name: value for name, value in variables.items() if name not in os.environ}


def _stopped_without_workers(error: BaseException) -> bool:
    failure = error.controller_failure if isinstance(error, ray.train.ControllerError) else None
    return isinstance(failure, StoppedWithoutWorkersError)


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
        f"Training lost its workers {max_failures + 1} times; expected at most training.max_failures, "
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
            "training.num_workers, training.cpus_per_worker or training.gpus_per_worker, or raise max_workers in the "
            f"cluster's configuration. {again}"
        )
    return None


def _loss(failure: BaseException) -> str | None:
    """Returns in words how a worker was lost, None where it failed. What fails beside a lost worker fails with it."""
    return _reason(failure.health_check_failure) if hasattr(failure, "health_check_failure") else None


def _reason(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")


def _show(progress: Progress, line: dict[str, Any]) -> None:
    facts = {name: line.get(name) for name in ("loss", "validation_loss", "tokens_per_second")}
    progress.update(line["step"], epoch=f"{line['epoch']:.1f}", **facts)


@contextlib.contextmanager
def _orderly_signals(run: RunFolder) -> Iterator[list[int]]:
    """Turns the first SIGTERM or SIGINT into a request to the workers; the second takes its usual course."""
    received: list[int] = []
    previous: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def request(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        restore()
        stop_request(run).touch()

    for number in (int(signal.SIGTERM), int(signal.SIGINT)):
        previous[number] = signal.signal(number, request)
    try:
        yield received
    finally:
        restore()
