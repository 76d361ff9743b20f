"""Times the planner against its slow reference, on random weights, in one process, alternating."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from pipeline.acting import Plan
from pipeline.benchmarks.options import PLANNER_SETTINGS, PlannerBenchmark
from pipeline.benchmarks.planner_cost import PlanCost, measured_rates, plan_cost, roofline_shares
from pipeline.benchmarks.planner_sweep import sweep
from pipeline.models.config import ModelConfig
from pipeline.models.trajectory_transformer import TrajectoryTransformer
from pipeline.planning.beam import BeamPlanner, PlanRequest
from pipeline.planning.config import PlanningConfig
from pipeline.planning.noise import plan_noise
from pipeline.references.planner import ReferencePlan, ReferencePlanner
from pipeline.timing import timed
from pipeline.tokens.discretizer import Discretizer
from pipeline.tokens.layout import TransitionLayout
from pipeline.training.utilisation import memory_gib


class Subject:
    """A model of random weights with the shape of the setting, and what episodes ask of it."""

    def __init__(self, options: PlannerBenchmark, planning: PlanningConfig, episodes: int) -> None:
        observation_dim, action_dim, _, _ = PLANNER_SETTINGS[options.setting]
        self.layout = TransitionLayout.plain(observation_dim, action_dim, num_bins=100)
        # A window that fits, as the default configuration trains one.
        window = planning.context_transitions + planning.horizon
        self.config = ModelConfig(window_transitions=window, dropout=0.0)
        self.model = random_model(self.config, self.layout).to(options.device)
        self.discretizer = Discretizer(self.layout, np.tile(np.linspace(-1, 1, 101), (self.layout.transition_dim, 1)))
        self.planning, self.episodes = planning, episodes
        self.requests = [self._request(seed) for seed in range(episodes)]
        self.planner = BeamPlanner(self.model, self.discretizer, planning, episodes, options.device)

    def _request(self, seed: int) -> PlanRequest:
        generator = np.random.default_rng(seed)
        context = generator.integers(100, size=(self.planning.context_transitions, self.layout.transition_dim))
        observation = generator.integers(100, size=self.layout.observation_dim)
        return PlanRequest(context, observation, plan_noise(self.planning, self.layout, seed, step=0))

    def plan(self) -> Sequence[Plan | None]:
        """Plans for all episodes in one call."""
        return self.planner.plan(self.requests)

    def cost(self) -> PlanCost:
        """Returns the work of one call."""
        searches, itemsize = -(-self.episodes // self.planner.shape.episodes), self.planner.product_dtype.itemsize
        return plan_cost(self.config, self.layout, self.planning, self.episodes, searches, itemsize)


def random_model(config: ModelConfig, layout: TransitionLayout) -> TrajectoryTransformer:
    """Returns a model whose predictions differ from bin to bin, unlike those of freshly initialised weights."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = TrajectoryTransformer(config, layout).eval()
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model


def run(options: PlannerBenchmark) -> dict[str, Any]:
    """Prints a table; returns what it says."""
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    subject = Subject(options, options.planning, options.episodes)
    subject.plan()
    peak_gib = memory_gib(device)
    timings = _alternate(options, subject, device)
    result = {
        "benchmark": "planner",
        "setting": options.setting,
        "episodes": options.episodes,
        "device": options.device,
        "threads": torch.get_num_threads(),
        "precision": str(subject.planner.product_dtype).removeprefix("torch."),
        "gpu_kernels": options.gpu_kernels,
        "beam_width": options.planning.beam_width,
        "horizon": options.planning.horizon,
        "identical": _identical(options, subject, timings.expected),
        **_times(timings, options.episodes),
        **_shares(subject, statistics.median(timings.ours), device),
        "peak_gib": peak_gib,
    }
    _print(result)
    if options.sweep:
        result["sweep"] = sweep(
            lambda planning, episodes: Subject(options, planning, episodes), options.planning, device
        )
    return result


@dataclass(frozen=True)
class _Timings:
    """Seconds of each call, and what the reference plans.

    Attributes:
        ours: Of all episodes together.
        alone: Of the first episode alone; empty where there is one only.
        theirs: The reference's, of the first episode.
        expected: The reference's plan, None where that was left out.
    """

    ours: list[float]
    alone: list[float]
    theirs: list[float]
    expected: ReferencePlan | None


def _identical(options: PlannerBenchmark, subject: Subject, expected: ReferencePlan | None) -> bool | None:
    """Returns whether the first episode's tokens are the reference's, planned in float32.

    In bfloat16 they part at the first choice that is as close as its rounding, which says nothing of the planner.
    """
    if expected is None:
        return None
    if subject.planner.product_dtype is not torch.float32:
        subject = Subject(options, subject.planning.model_copy(update={"precision": "float32"}), subject.episodes)
    plan = subject.plan()[0]
    return plan is not None and np.array_equal(plan.tokens, expected.tokens)


def _times(timings: _Timings, episodes: int) -> dict[str, float | None]:
    """Returns seconds and their ratio; a plan's time is that of the call divided by its episodes."""
    median, theirs = statistics.median(timings.ours), timings.theirs
    return {
        "seconds_per_call": median,
        "seconds_per_plan": median / episodes,
        "seconds_per_plan_min": min(timings.ours) / episodes,
        "seconds_per_plan_max": max(timings.ours) / episodes,
        "seconds_per_plan_alone": statistics.median(timings.alone) if timings.alone else None,
        "reference_seconds_per_plan": statistics.median(theirs) if theirs else None,
        "ratio": statistics.median(theirs) * episodes / median if theirs else None,
    }


def _shares(subject: Subject, seconds_per_call: float, device: torch.device) -> dict[str, Any]:
    """Returns the counted work, the machine's measured rates, and the shares of the roofline that were achieved."""
    cost, rates = subject.cost(), measured_rates(device, subject.planner.product_dtype)
    return {
        "rows_per_second": cost.rows / seconds_per_call,
        "steps": cost.steps,
        "rows": cost.rows,
        "gflop_per_call": cost.flops / 1e9,
        "gbyte_per_call": cost.bytes / 1e9,
        "measured_gflop_per_second": rates.flops / 1e9,
        "measured_gbyte_per_second": rates.bytes / 1e9,
        **roofline_shares(cost, rates, seconds_per_call, device),
    }


def _alternate(options: PlannerBenchmark, subject: Subject, device: torch.device) -> _Timings:
    """Times all by turns, the reference's plans spread evenly over the planner's calls."""
    reference = ReferencePlanner(subject.model, subject.discretizer.centers, subject.planning)
    first, single = subject.requests[0], Subject(options, subject.planning, 1) if subject.episodes > 1 else None
    expected: ReferencePlan | None = None
    ours, alone, theirs = [], [], []
    between = [int((i + 0.5) * options.repeats / options.reference_repeats) for i in range(options.reference_repeats)]
    for turn in range(options.repeats):
        ours.append(timed(subject.plan, device)[0])
        if single is not None:
            single.plan()  # brings back what the call before took from the caches
            alone.append(timed(single.plan, device)[0])
        for _ in range(between.count(turn)):
            seconds, expected = timed(
                lambda: reference.plan(np.asarray(first.context), np.asarray(first.observation), first.noise), device
            )
            theirs.append(seconds)
    return _Timings(ours, alone, theirs, expected)


def _print(result: dict[str, Any]) -> None:
    table = Table(title=f"Planner, {result['setting']}, {result['episodes']} episode(s), {result['device']}")
    table.add_column("")
    table.add_column("value", justify="right")
    for name, value in result.items():
        table.add_row(name.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value))
    Console().print(table)
