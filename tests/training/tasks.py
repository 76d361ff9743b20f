"""Small tasks to train on: episodes of different lengths and endings whose next tokens can be learnt."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.config import DataConfig
from pipeline.data.manifest import read_manifest
from pipeline.methods.registry import METHODS
from pipeline.methods.settings import MethodSettings
from pipeline.methods.training import MethodTraining
from pipeline.methods.trajectory_transformer.config import TrajectoryTransformerConfig
from pipeline.records import Episode
from pipeline.training.config import TrainingConfig
from pipeline.training.loop import TrainingLoop
from pipeline.training.task import TrainingTask
from pipeline.training.validation import Validation
from pipeline.training.world import World
from tests.data.in_memory import write_shards

MODEL = TrajectoryTransformerConfig(layers=1, heads=2, width=16, window_transitions=4, dropout=0.1)
TRAINING = TrainingConfig(
    epochs=3, batch_size=16, log_steps=5, validation_windows=20, learning_rate=3e-3, precision="float32"
)


def make_episodes(count: int = 12, seed: int = 0) -> list[Episode]:
    """A point that its actions move; a third of the episodes are truncated."""
    rng = np.random.default_rng(seed)
    episodes = []
    for number in range(count):
        steps = int(rng.integers(5, 25))
        actions = rng.uniform(-1, 1, (steps, 1))
        positions = np.concatenate([rng.uniform(-1, 1, (1, 1)), actions]).cumsum(0)
        observations = np.concatenate([positions, positions**2], axis=1)
        ended = number % 3 != 0
        episodes.append(Episode("point", number, observations, actions, -np.abs(positions[1:, 0]), ended, not ended))
    return episodes


def make_task(
    folder: Path,
    training: TrainingConfig = TRAINING,
    settings: MethodSettings = MODEL,
    method: str = "trajectory_transformer",
) -> MethodTraining:
    """A training in `folder`, with its shards."""
    shards = folder / "shards"
    if not shards.exists():
        write_shards(shards, make_episodes(), DataConfig(num_bins=10, validation_share=0.2))
    config = {
        "method": method,
        method: settings.model_dump(mode="json"),
        "training": training.model_dump(mode="json"),
    }
    task = TrainingTask(
        seed=0,
        training=training,
        config=config,
        manifest=read_manifest(shards),
        checkpoints=folder / "checkpoints",
        metrics=folder / "metrics.jsonl",
        tensorboard=folder / "tensorboard",
    )
    return MethodTraining(METHODS[method], settings, task, str(shards))


def make_loop(training: MethodTraining, world: World | None = None, **stop: Any) -> tuple[TrainingLoop, Any, Any]:
    """A loop of `training`, its windows and its validation."""
    world, task, config = world or World(), training.task, training.task.training
    loop = TrainingLoop(
        task,
        training.make_objective(world.device),
        world,
        training.schedule,
        stop.get("stop_requested", lambda: False),
        training.load_initial,
    )
    held_out = training.resident_windows("validation", world.device)
    validation = Validation(held_out, config.validation_windows, config.batch_size, task.seed, world)
    return loop, training.training_windows(world), validation


def run(training: MethodTraining, **stop: Any) -> TrainingLoop:
    """Trains until the end or until it is stopped; returns the loop."""
    loop, windows, validation = make_loop(training, **stop)
    loop.run(windows, validation)
    return loop


TIMING = {"time", "tokens_per_second", "utilisation", "input_share", "seconds_left", "memory_gib"}


def curve(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file without what depends on the clock and the machine."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMING} for line in lines]
