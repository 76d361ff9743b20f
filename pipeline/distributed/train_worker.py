"""What runs inside a Ray Train worker: makes everything from the configuration and hands it to the training loop."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch

from pipeline.data.manifest import read_manifest
from pipeline.data.shards import read_tokens
from pipeline.data.storage import Location
from pipeline.distributed import termination
from pipeline.distributed.shared_storage import require_shared
from pipeline.distributed.stream import StreamedWindows, StreamSettings, some_held_out
from pipeline.experiment import Experiment
from pipeline.run_folder import RunFolder
from pipeline.training.loop import TrainingLoop
from pipeline.training.schedule import Schedule
from pipeline.training.task import TrainingTask
from pipeline.training.validation import Validation
from pipeline.training.windows import ResidentWindows, ShuffledWindows, WindowSource, held_dtype
from pipeline.training.world import World


def shards_of(experiment: Experiment, run: RunFolder) -> Location:
    """Returns where the token shards of a run lie."""
    return run.shards_at(experiment.data.output)


def stop_request(run: RunFolder) -> Path:
    """Returns the file whose existence asks the workers to write a checkpoint and to end."""
    return run.checkpoints / "stop-requested"


def make_task(experiment: Experiment, run: RunFolder) -> TrainingTask:
    """Returns the training of an experiment.

    Raises:
        ManifestError: The shards are not there.
    """
    return TrainingTask(
        seed=experiment.seed,
        model=experiment.model,
        training=experiment.training,
        config=experiment.model_dump(mode="json"),
        manifest=read_manifest(shards_of(experiment, run)),
        checkpoints=run.checkpoints,
        metrics=run.metrics,
        tensorboard=run.tensorboard,
    )


def make_schedule(task: TrainingTask) -> Schedule:
    """Returns the steps and learning rates of a task."""
    totals = task.manifest.totals
    window_tokens = task.model.window_transitions * task.manifest.layout.transition_dim - 1
    return Schedule.of(task.training, totals.steps - totals.validation_steps, window_tokens)


def train_worker(recipe: dict[str, Any]) -> None:
    """Trains in this worker; Ray Train calls it once in every worker, again after each failure.

    Args:
        recipe: `experiment`, the plain values of an Experiment with absolute places; `recorded`, the same as it was
            given, which checkpoints keep; `root`, the run's folder; `threads`, of torch.

    Raises:
        ToldToEndError: This process was told to end; its checkpoint is written, and Ray Train places another worker.
        PipelineError: What a user can put right, on whichever worker; the controller ends the run with it
            (`pipeline.distributed.placement`) while the others may still wait for this worker.
    """
    require_shared()
    torch.set_num_threads(recipe["threads"])
    experiment, run = Experiment.model_validate(recipe["experiment"]), RunFolder(Path(recipe["root"]))
    with termination.watched():
        _train(experiment, run, recipe["recorded"])
    if termination.requested():
        raise termination.ToldToEndError


def token_bytes(task: TrainingTask) -> int:
    """Returns the bytes of all tokens as a worker holds them; to read them takes up to twice as many."""
    token = held_dtype(task.manifest.discretizer.dtype).itemsize
    return task.manifest.totals.steps * task.manifest.layout.transition_dim * token


def is_resident(task: TrainingTask) -> bool:
    """Returns whether every worker holds all tokens; else they are streamed."""
    return token_bytes(task) <= task.training.resident_gib * 2**30


def _train(experiment: Experiment, run: RunFolder, recorded: dict[str, Any]) -> None:
    world = World.of_process_group(ray.train.torch.get_device())
    task, request = replace(make_task(experiment, run), config=recorded), stop_request(run)
    loop = TrainingLoop(task, world, make_schedule(task), lambda: termination.requested() or request.exists())
    shards = shards_of(experiment, run)
    loop.run(_training_windows(task, shards, loop.step, world), _validation(task, shards, world))


def _training_windows(task: TrainingTask, shards: Location, first_step: int, world: World) -> WindowSource:
    config, transitions = task.training, task.model.window_transitions
    if is_resident(task):
        resident = ResidentWindows(read_tokens(shards, "train"), transitions, world.device)
        return ShuffledWindows(resident, task.seed, config.batch_size, world.rank, world.size)
    total = make_schedule(task).total_steps
    settings = StreamSettings(
        shards,
        task.manifest,
        transitions,
        config.shuffle_transitions,
        task.seed,
        config.batch_size,
        total,
        config.start_timeout_s,
    )
    return StreamedWindows(settings, first_step, world)


def _validation(task: TrainingTask, shards: Location, world: World) -> Validation | None:
    config = task.training
    if not task.manifest.totals.validation_steps:
        return None
    if is_resident(task):
        held_out = read_tokens(shards, "validation")
    else:
        held_out = some_held_out(shards, task.manifest, config.validation_windows, task.seed)
    windows = ResidentWindows(held_out, task.model.window_transitions, world.device)
    return Validation(windows, config.validation_windows, config.batch_size, task.seed, world)
