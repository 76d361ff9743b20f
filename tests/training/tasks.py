"""Small tasks to train on: episodes of different lengths and endings whose next tokens can be learnt."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.config import DataConfig
from pipeline.data.manifest import read_manifest
from pipeline.data.shards import read_tokens
from pipeline.models.config import ModelConfig
from pipeline.records import Episode
from pipeline.training.config import TrainingConfig
from pipeline.training.loop import TrainingLoop
from pipeline.training.schedule import Schedule
from pipeline.training.task import TrainingTask
from pipeline.training.validation import Validation
from pipeline.training.windows import ResidentWindows, ShuffledWindows
from pipeline.training.world import World
from tests.data.in_memory import write_shards

MODEL = ModelConfig(layers=1, heads=2, width=16, window_transitions=4, dropout=0.1)
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


def make_task(folder: Path, training: TrainingConfig = TRAINING, model: ModelConfig = MODEL) -> TrainingTask:
    """A task in `folder`, with its shards."""
    shards = folder / "shards"
    if not shards.exists():
        write_shards(shards, make_episodes(), DataConfig(num_bins=10, validation_share=0.2))
    config = {"model": model.model_dump(mode="json"), "training": training.model_dump(mode="json")}
    return TrainingTask(
        0,
        model,
        training,
        config,
        read_manifest(shards),
        folder / "checkpoints",
        folder / "metrics.jsonl",
        folder / "tensorboard",
    )


def make_loop(task: TrainingTask, world: World | None = None, **stop: Any) -> tuple[TrainingLoop, Any, Any]:
    """A loop of `task`, its windows and its validation."""
    world = world or World()
    shards = task.metrics.parent / "shards"
    windows, held_out = (
        ResidentWindows(read_tokens(shards, split), task.model.window_transitions, world.device)
        for split in ("train", "validation")
    )
    tokens = task.model.window_transitions * task.manifest.layout.transition_dim - 1
    schedule = Schedule.of(task.training, windows.num_starts, tokens)
    loop = TrainingLoop(task, world, schedule, stop.get("stop_requested", lambda: False))
    shuffled = ShuffledWindows(windows, task.seed, task.training.batch_size, world.rank, world.size)
    validation = Validation(held_out, task.training.validation_windows, task.training.batch_size, task.seed, world)
    return loop, shuffled, validation


def run(task: TrainingTask, **stop: Any) -> TrainingLoop:
    """Trains `task` until it ends or is stopped; returns the loop."""
    loop, windows, validation = make_loop(task, **stop)
    loop.run(windows, validation)
    return loop


TIMING = {"time", "tokens_per_second", "utilisation", "input_share", "seconds_left", "memory_gib"}


def curve(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file without what depends on the clock and the machine."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMING} for line in lines]
