"""Times the training step against the plain reference step, alternating in one process on the same windows.

Before anything is timed, both must give the same loss from the same weights (float32, dropout off).
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.benchmarks.options import TrainBenchmark, TrainSetting
from pipeline.data.shards import TokenEpisodes
from pipeline.models.config import ModelConfig
from pipeline.models.trajectory_transformer import TrajectoryTransformer
from pipeline.references.training import ReferenceStep, ReferenceTransformer
from pipeline.seeding import stream
from pipeline.timing import wait_for
from pipeline.tokens.layout import TransitionLayout
from pipeline.training.config import TrainingConfig
from pipeline.training.loss import Targets
from pipeline.training.step import TrainStep
from pipeline.training.utilisation import memory_gib, model_flops_per_token, peak_flops
from pipeline.training.windows import ResidentWindows
from pipeline.training.world import World

DIMENSIONS: dict[TrainSetting, tuple[int, int]] = {"hopper": (11, 3), "walker2d": (17, 6), "ant": (27, 8)}
"""Observation and action dimensions."""
EPISODES, EPISODE_STEPS = 40, 480
PAPER_WINDOWS = 50_000_000
"""50 epochs of one million windows: the paper's training on hopper-medium."""


def run(options: TrainBenchmark) -> dict[str, Any]:
    """Returns the result as the command prints it."""
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device
    )
    batch_size = options.batch_size or (256 if device.type == "cuda" else 64)
    same = _same_loss(options, device, batch_size)
    task = _Task(options, device, batch_size, options.dropout)
    ours, reference = task.ours(), task.reference
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    _measure(ours, task, task.batches(1))
    # Before the reference's first step of this size: a process's memory is counted from its start.
    peak_gib = memory_gib(device)
    _measure(reference, task, task.batches(1))
    pairs = []
    for _ in range(options.repeats):
        batches = task.batches(options.steps)
        pairs.append((_measure(ours, task, batches), _measure(reference, task, batches)))
    seconds, theirs = statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)
    flops = model_flops_per_token(task.step.model)
    return {
        "benchmark": "train",
        "setting": options.setting,
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"cpu, {torch.get_num_threads()} threads",
        "same_loss": same,
        "tokens_per_second": round(task.tokens / seconds),
        "reference_tokens_per_second": round(task.tokens / theirs),
        "ratio": round(theirs / seconds, 3),
        "ratios": sorted(round(b / a, 3) for a, b in pairs),
        "utilisation": round(flops * task.tokens / seconds / peak_flops(device, task.step.dtype), 4),
        "peak_gib": round(peak_gib, 3),
        "clock": options.clock,
        "precision": "float32" if task.step.dtype is None else "bfloat16",
        "dropout": options.dropout,
        "compile": options.compile,
        "batch_size": batch_size,
        "step_ms": round(1000 * seconds, 2),
        "paper_training_minutes": round(PAPER_WINDOWS / batch_size * seconds / 60, 1),
    }


class _Task:
    """One model with our step and the reference's, and windows for both."""

    def __init__(self, options: TrainBenchmark, device: torch.device, batch_size: int, dropout: float) -> None:
        layout = TransitionLayout.plain(*DIMENSIONS[options.setting], num_bins=100)
        model = ModelConfig(window_transitions=10, dropout=dropout)
        config = TrainingConfig(batch_size=batch_size, precision=options.precision, compile=options.compile)
        self._rng, self._batch_size, self.device = stream(0, "benchmark"), batch_size, device
        self.clock = time.process_time if options.clock == "cpu" else time.perf_counter
        self.tokens = batch_size * (model.window_transitions * layout.transition_dim - 1)
        tokens = self._rng.integers(0, 100, (EPISODES * EPISODE_STEPS, layout.transition_dim)).astype(np.uint8)
        offsets = np.arange(EPISODES + 1, dtype=np.int64) * EPISODE_STEPS
        episodes = TokenEpisodes(layout, tokens, offsets, np.ones(EPISODES, dtype=np.bool_))
        self.windows = ResidentWindows(episodes, model.window_transitions, device)
        torch.manual_seed(0)
        ours = TrajectoryTransformer(model, layout).to(device)
        theirs = ReferenceTransformer(model, layout).to(device).copy_from(ours)
        self.step = TrainStep(ours, config, World(device=device), 0)
        self.reference = ReferenceStep(theirs, episodes, model.window_transitions, config)

    def batches(self, count: int) -> list[NDArray[np.int64]]:
        """Returns the random start indices of some batches."""
        return [self._rng.integers(0, self.windows.num_starts, self._batch_size) for _ in range(count)]

    def ours(self) -> Callable[[NDArray[np.int64]], object]:
        """Returns our step, from start indices to the updated model."""
        return lambda starts: self.step(self.windows.gather(starts), 0, 1e-4)


def _same_loss(options: TrainBenchmark, device: torch.device, batch_size: int) -> bool:
    plain = options.model_copy(update={"precision": "float32", "compile": False})
    task = _Task(plain, device, min(batch_size, 16), dropout=0.0)
    (starts,) = task.batches(1)
    targets = Targets.of(task.windows.gather(starts))
    with torch.no_grad():
        weighted, _ = task.step.loss(task.step.model(targets.inputs), targets)
        ours, theirs = weighted / targets.counted.sum(), task.reference.loss(starts.tolist())
    # float32 sums in another order; TF32 is off unless the user turned it on.
    return bool(torch.isclose(ours, theirs, rtol=1e-5))


def _measure(step: Callable[[Any], object], task: _Task, batches: list[NDArray[np.int64]]) -> float:
    """Returns the seconds of one step; the device has finished all of them."""
    wait_for(task.device)
    started = task.clock()
    for starts in batches:
        step(starts)
    wait_for(task.device)
    return (task.clock() - started) / len(batches)
