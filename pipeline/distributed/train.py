"""Trains the model with Ray Train: places the workers, restarts lost ones, shows progress, stops in order.

Ray Train (V2) brings the workers, their process group, elastic sizes and restarts. Checkpoints are ours
(`pipeline.training.checkpoint`): they are found on disk and need no Ray, where Ray's own are listed in a snapshot that
is written in place, and are lost if reported after the controller's last poll.
"""

import contextlib
import hashlib
import logging
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
from torch import nn

from pipeline.beside import Beside, Repeated, at_the_end
from pipeline.configuration import absolute, claim_folder, claimed_identity, require_same
from pipeline.data.table import ACTIONS
from pipeline.distributed import termination
from pipeline.distributed.placement import StartLimit
from pipeline.distributed.session import joins_cluster
from pipeline.distributed.train_endings import explained, require_all_epochs, stopped_without_workers
from pipeline.distributed.train_worker import make_training, stop_request, train_worker
from pipeline.distributed.trainer import InPlaceTrainer
from pipeline.distributed.worker_resources import WorkerResources, worker_resources
from pipeline.errors import RunFolderError
from pipeline.exclusive import exclusive
from pipeline.experiment import Experiment, stage_identity
from pipeline.methods.training import MethodTraining
from pipeline.progress import Progress
from pipeline.run_folder import RunFolder
from pipeline.training.checkpoint import best_checkpoint, last_checkpoint, read_info, require_same_tokens, verify
from pipeline.training.display import Display
from pipeline.training.fence import Fence
from pipeline.training.storage import checkpoint_room, persist, require_room

logger = logging.getLogger(__name__)

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
        ManifestError: There are no shards, they lack what the method reads, or a worker finds them missing or damaged.
        ConfigError: The settings do not fit the data.
        DataError: The training split has no transition.
        RunFolderError: The run's checkpoints were made by another configuration or from other shards, another process
            trains this run, or something else than this process asked its workers to stop.
        CheckpointError: The checkpoint to continue from is corrupt, made for another layout, or not seen by a worker;
            or training.init_from is missing or of another shape.
        StorageError: The run's folder cannot be written or is too full, or the last checkpoint could not be written.
        TrainingDivergedError: The loss became NaN or jumped.
        ClusterError: Workers were lost more often than workers.max_failures, cannot be placed, or do not find the
            GPUs or the time to read that they need.
    """
    # This thread waits and takes signals: whatever may meet storage that does not answer is done by others.
    storage, epochs = Beside(), experiment.training.epochs
    training, model = storage.do(lambda: _checked(experiment, run), f"Reading what {run.root} is to be trained on")
    total, looking = training.schedule.total_steps, f"Looking at the checkpoints in {run.checkpoints}"
    with exclusive(run.checkpoints, "training"), Progress("train", total, "steps") as progress:
        reported = storage.do(lambda: _prepare(training, model, experiment, run), looking)
        if reported >= epochs:
            progress.finish(f"nothing to do: {storage.do(lambda: _verified_result(run), looking)}")
            return
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        resources = worker_resources(experiment.workers, nodes, joins_cluster(), not training.is_resident)
        progress.note(*plan(training, resources))
        display = storage.do(
            lambda: Display(progress, run.metrics, training.measures, epochs, reported), f"Reading {run.metrics}"
        )
        _Fit(experiment, run, resources).wait(progress, display, run, storage)
        require_all_epochs(storage.do(lambda: _reported(run), looking), epochs, stop_request(run))
        progress.finish(storage.do(lambda: _result(run), looking))


def _checked(experiment: Experiment, run: RunFolder) -> tuple[MethodTraining, nn.Module]:
    """Returns the training, with all that it reads from its shards, and its model, if there is room for checkpoints."""
    training = make_training(experiment, run)
    training.check()
    model = training.make_model()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    require_room(run.checkpoints, checkpoint_room(parameters, training.task.training))
    training.read()
    return training, model


def _prepare(training: MethodTraining, model: nn.Module, experiment: Experiment, run: RunFolder) -> int:
    """Checks what is there before the first step, and returns the epochs that are already reported."""
    # The worker of a driver that was killed may still be there: what is looked at here is to stay as it is.
    persist(lambda: Fence(run.checkpoints), "The token of this training", run.checkpoints)
    _require_method(run.checkpoints, training.method.name)
    last = last_checkpoint(run.checkpoints)
    if last is not None:
        require_same_tokens(last, training.manifest)
    elif training.load_initial is not None:
        training.load_initial(model)
    _claim(run.checkpoints, training_identity(experiment, training))
    stop_request(run).unlink(missing_ok=True)
    return _reported(run)


def _claim(checkpoints: Path, identity: dict[str, Any]) -> None:
    claimed = claimed_identity(checkpoints)
    if claimed is None:
        claim_folder(checkpoints, identity, "checkpoints")
    else:
        require_same(checkpoints, claimed, identity, "checkpoints")


def _require_method(checkpoints: Path, method: str) -> None:
    trained = (claimed_identity(checkpoints) or {}).get("method", method)
    if trained != method:
        raise RunFolderError(
            f"{checkpoints} holds checkpoints of the method {trained}; expected those of {method}: a run has "
            "one method. Choose another --name."
        )


def _reported(run: RunFolder) -> int:
    """Returns the epochs that the newest checkpoint has reported."""
    last = last_checkpoint(run.checkpoints)
    return read_info(last).epoch if last else 0


def plan(training: MethodTraining, resources: WorkerResources) -> list[str]:
    """Returns, row by row, what an epoch is, who trains, where the windows come from, and what to know of the data."""
    schedule, config = training.schedule, training.task.training
    epochs = f"{config.epochs} epochs of {schedule.steps_per_epoch:,} steps"
    columns = ", ".join(name.replace("_", " ") for name in training.method.columns)
    size = f"{training.steps:,} transitions, {training.bytes / 2**30:.2g} GiB of {columns}"
    limit = f"training.resident_gib {config.resident_gib:g}"
    source = (
        f"resident in every worker, within {limit}"
        if training.is_resident
        else f"streamed through Ray Data, above {limit}"
    )
    rows = [
        f"{epochs}, {schedule.tokens_per_epoch:,} tokens each · {resources}",
        f"{size}: {source}",
    ]
    spaces = training.manifest.spaces
    if ACTIONS in training.method.columns and not spaces.bounds_actions:
        # D4RL's files name none. The papers' networks end with a tanh, which needs bounds.
        rows.append("the data names no bounds of actions: they are predicted as they come, without a tanh")
    return rows


def training_identity(experiment: Experiment, training: MethodTraining) -> dict[str, Any]:
    """Returns everything that decides what a training gives."""
    limit = "training.resident_gib"
    return {
        **stage_identity(experiment, "train"),
        "shards": hashlib.sha256(training.manifest.to_json().encode()).hexdigest(),
        # The order of the windows is another one.
        "windows": f"resident, within {limit}" if training.is_resident else f"streamed, above {limit}",
    }


def _verified_result(run: RunFolder) -> str:
    """Returns what a finished training came to; whoever goes on with it takes the best checkpoint.

    Raises:
        CheckpointError: That is damaged.
    """
    verify(best_checkpoint(run.checkpoints))
    return _result(run)


def _result(run: RunFolder) -> str:
    """Returns what the training came to, in words."""
    last = last_checkpoint(run.checkpoints)
    assert last is not None
    info, best = read_info(last), read_info(best_checkpoint(run.checkpoints))
    measure, value = best.selected_by.measure, best.selected_by.value
    told = "no held-out episodes" if value is None else f"validation {measure} {value:.4f}"
    return f"{info.epoch} epochs, {info.step:,} steps, {told} at epoch {best.epoch}"


class _Fit:
    """`TorchTrainer.fit()` in a thread of its own, so that this one can show progress and take signals."""

    def __init__(self, experiment: Experiment, run: RunFolder, resources: WorkerResources) -> None:
        recipe = {
            "experiment": _with_absolute_places(experiment),
            "recorded": experiment.model_dump(mode="json"),
            "root": str(run.root),
            "threads": max(1, int(resources.cpus)),
        }
        trainer = ray.train.torch.TorchTrainer if joins_cluster() else InPlaceTrainer
        self._trainer = trainer(
            train_worker,
            train_loop_config=recipe,
            torch_config=ray.train.torch.TorchConfig(backend="gloo" if resources.share_gpus else None),
            scaling_config=ray.train.ScalingConfig(
                num_workers=resources.num_workers,
                use_gpu=resources.gpus > 0,
                resources_per_worker=resources.of_one_worker,
                elastic_resize_monitor_interval_s=experiment.workers.resize_interval_s,
            ),
            run_config=ray.train.RunConfig(
                # Nothing is reported to Ray, so its folder stays empty; a name of its own keeps it from looking back.
                name=f"fit-{time.time_ns()}",
                storage_path=str(run.root / "ray"),
                worker_runtime_env={} if resources.gpus else {"env_vars": _not_set(_KEEP_FREED_MEMORY)},
                failure_config=ray.train.FailureConfig(max_failures=experiment.workers.max_failures),
                callbacks=[
                    termination.HandledInWorkers(),
                    StartLimit(resources, experiment.workers.start_timeout_s, stop_request(run)),
                ],
                # As ERROR the controller prints a traceback for each minute without room; what ends the run is raised.
                logging_config=ray.train.LoggingConfig(log_level="CRITICAL"),
            ),
        )
        self._resources = resources
        self._max_failures = experiment.workers.max_failures
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._fit, name="fit", daemon=True)

    def _fit(self) -> None:
        try:
            self._trainer.fit()
        except BaseException as error:  # raised again where it is waited for
            self._error = error

    def wait(self, progress: Progress, display: Display, run: RunFolder, storage: Beside) -> None:
        """Shows progress until the workers have ended: all is done, or something asked them to.

        Raises:
            PipelineError: What ended them, where a user can put it right or they were lost.
        """
        request = stop_request(run)
        ask = Repeated(lambda: _ask_to_stop(request), f"Asking the workers to end, in {request}")
        self._thread.start()
        news = time.monotonic()
        with _orderly_signals() as received:
            while self._thread.is_alive():
                self._thread.join(POLL_SECONDS)
                if display.refresh():
                    news = time.monotonic()
                if received:
                    waited_for = ask(f"{request} to be writable (its storage does not answer)")
                    progress.wait(f"{waited_for}; the same signal again ends at once")
                elif time.monotonic() - news > QUIET_SECONDS:
                    progress.wait(f"{display.awaited} of {self._resources}")
        if self._error is None and not received:
            display.finish(storage)
        else:
            # What went wrong, or the signal, is not to wait for the record's last lines.
            at_the_end(lambda: display.finish(storage), f"Reading the end of {run.metrics}")
        at_the_end(lambda: _remove_rays_record(run), f"Removing {run.root / 'ray'}")
        stopped = self._error is None or stopped_without_workers(self._error)
        if received and stopped:
            signal.raise_signal(received[0])
        if self._error is not None and not stopped:
            last = storage.do(lambda: last_checkpoint(run.checkpoints), f"Looking for checkpoints in {run.checkpoints}")
            told = explained(self._error, self._resources, self._max_failures, last)
            raise told from (None if told is self._error else self._error)


def _with_absolute_places(experiment: Experiment) -> dict[str, Any]:
    """Returns the settings for workers, whose working directories are others than this process's."""
    settings = experiment.model_dump(mode="json")
    for section, name in (("data", "output"), ("training", "init_from")):
        if settings[section][name] is not None:
            settings[section][name] = absolute(settings[section][name])
    return settings


def _not_set(variables: dict[str, str]) -> dict[str, str]:
    """Returns those of `variables` that the user has not set."""
    return {name: value for name, value in variables.items() if name not in os.environ}


@contextlib.contextmanager
def _orderly_signals() -> Iterator[list[int]]:
    """Notes the first SIGTERM or SIGINT, which is to end the workers in order; the second takes its usual course.

    One that the process was started to ignore, as by nohup, stays ignored.
    """
    received: list[int] = []
    previous: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        restore()

    for number in (int(signal.SIGTERM), int(signal.SIGINT)):
        if signal.getsignal(number) is not signal.SIG_IGN:
            previous[number] = signal.signal(number, note)
    try:
        yield received
    finally:
        restore()


def _ask_to_stop(request: Path) -> str:
    """Asks the workers to stop, and returns in words what is waited for; called until they have ended."""
    try:
        if not request.exists():
            request.touch()
    except OSError as error:
        return f"{request} to be writable, where the workers are asked to end ({error})"
    return "the workers to write a checkpoint and end"


def _remove_rays_record(run: RunFolder) -> None:
    """Removes Ray's own record of the run, in which nothing is; with those that killed drivers left."""
    try:
        shutil.rmtree(run.root / "ray")
    except FileNotFoundError:
        pass  # no worker was ever placed
    except OSError as error:
        logger.warning("%s could not be removed (%s); the next training tries again.", run.root / "ray", error)
