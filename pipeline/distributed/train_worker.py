"""What runs inside a Ray Train worker: makes everything from the configuration and hands it to the training loop."""

from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch

from pipeline.beside import Repeated
from pipeline.data.manifest import read_manifest
from pipeline.data.storage import Location
from pipeline.distributed import termination
from pipeline.distributed.shared_storage import require_shared
from pipeline.distributed.stream import StreamedWindows, StreamSettings, some_held_out
from pipeline.experiment import Experiment
from pipeline.methods.registry import METHODS
from pipeline.methods.training import MethodTraining
from pipeline.run_folder import RunFolder
from pipeline.training.loop import TrainingLoop
from pipeline.training.task import TrainingTask
from pipeline.training.validation import Validation
from pipeline.training.windows import WindowSource
from pipeline.training.world import World


def shards_of(experiment: Experiment, run: RunFolder) -> Location:
    """Returns where the shards of a run lie."""
    return run.shards_at(experiment.data.output)


def stop_request(run: RunFolder) -> Path:
    """Returns the file whose existence asks the workers to write a checkpoint and to end."""
    return run.checkpoints / "stop-requested"


def make_training(experiment: Experiment, run: RunFolder) -> MethodTraining:
    """Returns the training of an experiment.

    Raises:
        ManifestError: The shards are not there.
    """
    shards = shards_of(experiment, run)
    task = TrainingTask(
        seed=experiment.seed,
        training=experiment.training,
        config=experiment.model_dump(mode="json"),
        manifest=read_manifest(shards),
        checkpoints=run.checkpoints,
        metrics=run.metrics,
        tensorboard=run.tensorboard,
    )
    return MethodTraining(METHODS[experiment.method], experiment.settings, task, shards)


LOOK_SECONDS = 0.02
"""What a look for the request to stop may hold a step up; there is one every half second at most."""


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


def _train(experiment: Experiment, run: RunFolder, recorded: dict[str, Any]) -> None:
    world = World.of_process_group(ray.train.torch.get_device())
    training, request = make_training(experiment, run).recorded_as(recorded), stop_request(run)
    # Asked between steps: storage that does not answer must not hold them up. Writing to it has a limit of its own.
    asked_to_stop = Repeated(request.exists, f"Looking for {request}", LOOK_SECONDS)
    loop = TrainingLoop(
        training.task,
        training.make_objective(world.device),
        world,
        training.schedule,
        stop_requested=lambda: termination.requested() or asked_to_stop(late=False),
        load_initial=training.load_initial,
    )
    windows = _training_windows(training, loop.step, world, experiment.workers.start_timeout_s)
    loop.run(windows, _validation(training, world))


def _training_windows(training: MethodTraining, first_step: int, world: World, timeout_s: float) -> WindowSource:
    config, seed = training.task.training, training.task.seed
    if training.is_resident:
        return training.training_windows(world)
    settings = StreamSettings(
        shards=training.shards,
        manifest=training.manifest,
        columns=training.method.columns,
        lowest=training.learnt_from.lowest,
        window=training.window,
        chunk_transitions=config.shuffle_transitions,
        seed=seed,
        batch_size=config.batch_size,
        total_steps=training.schedule.total_steps,
        timeout_s=timeout_s,
    )
    return StreamedWindows(settings, first_step, world)


def _validation(training: MethodTraining, world: World) -> Validation | None:
    config, seed = training.task.training, training.task.seed
    if not training.manifest.totals.validation_steps:
        return None
    if training.is_resident:
        windows = training.resident_windows("validation", world.device)
    else:
        windows = some_held_out(training, config.validation_windows, world.device)
    return Validation(windows, config.validation_windows, config.batch_size, seed, world)
