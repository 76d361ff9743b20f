"""Times the training step against the plain reference step, alternating in one process on the same windows.

Before anything is timed, both must give the same loss from the same weights (float32, dropout off).
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.benchmarks.manifest import manifest_without_data
from pipeline.benchmarks.options import TrainBenchmark, TrainSetting
from pipeline.data.manifest import Manifest
from pipeline.data.spaces import Spaces
from pipeline.data.table import ACTIONS, OBSERVATIONS, RETURNS_TO_GO, TOKENS, EpisodeTable
from pipeline.methods.behaviour_cloning.config import BehaviourCloningConfig
from pipeline.methods.decision_transformer.config import DecisionTransformerConfig
from pipeline.methods.registry import METHODS
from pipeline.methods.settings import MethodSettings
from pipeline.methods.trajectory_transformer.config import TrajectoryTransformerConfig
from pipeline.models.decision_transformer import DecisionTransformer
from pipeline.models.mlp import ActionMlp
from pipeline.models.trajectory_transformer import TrajectoryTransformer
from pipeline.references.actions import ReferenceDecisionTransformer, ReferenceMlp, action_step
from pipeline.references.training import ReferenceStep, ReferenceTransformer, token_step
from pipeline.seeding import stream
from pipeline.timing import wait_for
from pipeline.training.config import TrainingConfig
from pipeline.training.step import TrainStep
from pipeline.training.utilisation import memory_gib, peak_flops
from pipeline.training.windows import ResidentWindows
from pipeline.training.world import World

DIMENSIONS: dict[TrainSetting, tuple[int, int]] = {"hopper": (11, 3), "walker2d": (17, 6), "ant": (27, 8)}
"""Observation and action dimensions."""
EPISODES, EPISODE_STEPS = 40, 480
WARM_UPS = 5
"""Steps of ours on CUDA before the first that is timed: the graph is captured at the fourth."""
PAPER_WINDOWS = {
    "trajectory_transformer": 50_000_000,
    "decision_transformer": 6_400_000,
    "behaviour_cloning": 6_400_000,
}
"""Of the papers' trainings on hopper-medium: 50 epochs of one million windows, and 100 000 steps of 64."""


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
    _measure(ours, task, task.batches(WARM_UPS if device.type == "cuda" else 1))
    # Before the reference's first step of this size: a process's memory is counted from its start.
    peak_gib = memory_gib(device)
    _measure(reference, task, task.batches(1))
    pairs = []
    for _ in range(options.repeats):
        batches = task.batches(options.steps)
        pairs.append((_measure(ours, task, batches), _measure(reference, task, batches)))
    seconds, theirs = statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)
    flops = task.step.objective.flops_per_window * batch_size
    return {
        "benchmark": "train",
        "method": options.method,
        "setting": options.setting,
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"cpu, {torch.get_num_threads()} threads",
        "same_loss": same,
        "tokens_per_second": round(task.tokens / seconds),
        "reference_tokens_per_second": round(task.tokens / theirs),
        "ratio": round(theirs / seconds, 3),
        "ratios": sorted(round(b / a, 3) for a, b in pairs),
        "utilisation": round(flops / seconds / peak_flops(device, task.step.dtype), 4),
        "peak_gib": round(peak_gib, 3),
        "clock": options.clock,
        "precision": "float32" if task.step.dtype is None else "bfloat16",
        "dropout": options.dropout,
        "compile": options.compile,
        "cuda_graph": options.cuda_graph,
        "batch_size": batch_size,
        "step_ms": round(1000 * seconds, 2),
        "paper_training_minutes": round(PAPER_WINDOWS[options.method] / batch_size * seconds / 60, 1),
    }


class _Task:
    """One model with our step and the reference's, and windows for both."""

    def __init__(self, options: TrainBenchmark, device: torch.device, batch_size: int, dropout: float) -> None:
        chosen = {name: getattr(options, name) for name in ("precision", "compile", "cuda_graph")}
        config = TrainingConfig(batch_size=batch_size, **chosen)
        self._rng, self._batch_size, self.device = stream(0, "benchmark"), batch_size, device
        self.clock = time.process_time if options.clock == "cpu" else time.perf_counter
        method, settings = METHODS[options.method], paper_settings(options.method, dropout)
        manifest = manifest_without_data(spaces_of(options.setting))
        episodes, window = self._episodes(manifest), method.window(settings, manifest)
        episodes = replace(episodes, columns={name: episodes[name] for name in method.columns})
        self.tokens = batch_size * method.window_tokens(settings, manifest)
        self.windows = ResidentWindows(episodes, window, device)
        torch.manual_seed(0)
        model = method.make_model(settings, manifest).to(device)
        self.reference = _reference(model, settings, episodes, window, config)
        self.step = TrainStep(method.make_objective(model, settings), config, World(device=device), 0)

    def _episodes(self, manifest: Manifest) -> EpisodeTable:
        rng, steps = self._rng, EPISODES * EPISODE_STEPS
        shape = (steps, manifest.spaces.observation_dim)
        columns: dict[str, NDArray[Any]] = {
            TOKENS: rng.integers(0, 100, (steps, manifest.layout.transition_dim)).astype(np.uint8),
            OBSERVATIONS: rng.normal(size=shape).astype(np.float32),
            ACTIONS: rng.uniform(-1, 1, (steps, manifest.spaces.action_dim)).astype(np.float32),
            RETURNS_TO_GO: rng.uniform(0, 1, steps).astype(np.float32),
        }
        offsets = np.arange(EPISODES + 1, dtype=np.int64) * EPISODE_STEPS
        return EpisodeTable(columns, offsets, np.ones(EPISODES, dtype=np.bool_), np.zeros(EPISODES))

    def batches(self, count: int) -> list[NDArray[np.int64]]:
        """Returns the random start indices of some batches."""
        return [self._rng.integers(0, self.windows.num_starts, self._batch_size) for _ in range(count)]

    def ours(self) -> Callable[[NDArray[np.int64]], object]:
        """Returns our step, from start indices to the updated model."""
        return lambda starts: self.step(self.windows.gather(starts), 0, 1e-4)


def spaces_of(setting: TrainSetting) -> Spaces:
    """Returns observations and actions of a setting, these between -1 and 1."""
    observation_dim, action_dim = DIMENSIONS[setting]
    bounds = {"action_low": (-1.0,) * action_dim, "action_high": (1.0,) * action_dim}
    return Spaces.plain(observation_dim, action_dim).model_copy(update=bounds)


def paper_settings(method: str, dropout: float) -> MethodSettings:
    """Returns the paper's model, and 1000 steps an episode as its code has them."""
    if method == "trajectory_transformer":
        return TrajectoryTransformerConfig(window_transitions=10, dropout=dropout)
    if method == "decision_transformer":
        return DecisionTransformerConfig(
            dropout=dropout, max_episode_steps=1000, return_scale=1000.0, target_returns=3600.0
        )
    return BehaviourCloningConfig(dropout=dropout)


def _reference(
    model: nn.Module, settings: MethodSettings, episodes: EpisodeTable, window: int, config: TrainingConfig
) -> ReferenceStep:
    if isinstance(settings, TrajectoryTransformerConfig):
        assert isinstance(model, TrajectoryTransformer)
        reference = ReferenceTransformer(settings, model.layout).to(model.mask.device).copy_from(model)
        return token_step(reference, episodes, window, config, settings.loss_weights)
    if isinstance(model, DecisionTransformer):
        assert isinstance(settings, DecisionTransformerConfig)
        return action_step(ReferenceDecisionTransformer(model, settings), episodes, window, config)
    assert isinstance(model, ActionMlp)
    return action_step(ReferenceMlp(model), episodes, window, config)


def _same_loss(options: TrainBenchmark, device: torch.device, batch_size: int) -> bool:
    plain = options.model_copy(update={"precision": "float32", "compile": False})
    task = _Task(plain, device, min(batch_size, 16), dropout=0.0)
    (starts,) = task.batches(1)
    batch, objective = task.windows.gather(starts), task.step.objective
    with torch.no_grad():
        weighted, _ = objective(objective.model, batch)
        ours, theirs = weighted / objective.counted(batch), task.reference.loss(starts.tolist())
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
