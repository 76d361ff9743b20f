"""Times the planner against its slow reference, on random weights, in one process, alternating."""

import os
import statistics
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from rich.console import Console
from rich.table import Table

from pipeline.benchmarks.planner_cost import measured_rates, plan_cost, roofline_seconds, timed
from pipeline.benchmarks.planner_sweep import sweep
from pipeline.benchmarks.record import BenchmarkConfig
from pipeline.models.config import ModelConfig
from pipeline.models.trajectory_transformer import TrajectoryTransformer
from pipeline.planning.beam import BeamPlanner, Plan, PlanRequest
from pipeline.planning.config import PlanningConfig
from pipeline.planning.noise import plan_noise
from pipeline.references.planner import ReferencePlanner
from pipeline.tokens.discretizer import Discretizer
from pipeline.tokens.layout import TransitionLayout
from pipeline.training.utilisation import memory_gib

# observation_dim, action_dim, horizon, beam_width: the released code's settings; 100 bins, context 5, cdf_act 0.6.
SETTINGS = {
    "hopper": (11, 3, 15, 128),
    "halfcheetah": (17, 6, 5, 32),
    "walker2d": (17, 6, 15, 128),
    "ant": (27, 8, 5, 128),
}


class PlannerBenchmark(BenchmarkConfig):
    """Options of `jobs/benchmark.py planner`."""

    setting: Literal["hopper", "halfcheetah", "walker2d", "ant"] = Field("hopper", description="Dimensions and search.")
    episodes: int = Field(1, ge=1, description="Episodes in one call.")
    device: str = Field("cpu", description="cpu or cuda.")
    threads: int | None = Field(None, ge=1, description="Torch's threads; null takes all cores.")
    repeats: int = Field(7, ge=1, description="Timed calls of the planner.")
    reference_repeats: int = Field(
        1, ge=0, description="Timed plans of the reference, a minute each at hopper; 0 leaves it out."
    )
    beam_width: int | None = Field(None, ge=1, description="Instead of the setting's.")
    horizon: int | None = Field(None, ge=1, description="Instead of the setting's.")
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="As planning.precision.")
    sweep: bool = Field(False, description="Also time other beam widths, horizons and episodes, and fit the law.")

    @property
    def planning(self) -> PlanningConfig:
        """The search of the setting."""
        _, _, horizon, beam_width = SETTINGS[self.setting]
        return PlanningConfig(
            horizon=self.horizon or horizon, beam_width=self.beam_width or beam_width, precision=self.precision
        )


class Subject:
    """A model of random weights with the shape of the setting, and what episodes ask of it."""

    def __init__(self, options: PlannerBenchmark, planning: PlanningConfig, episodes: int) -> None:
        observation_dim, action_dim, _, _ = SETTINGS[options.setting]
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
    torch.set_num_threads(options.threads or os.cpu_count() or 1)
    device = torch.device(options.device)
    subject = Subject(options, options.planning, options.episodes)
    subject.plan()
    peak_gib = memory_gib(device)
    ours, theirs, identical = _alternate(options, subject, device)
    result = {
        "benchmark": "planner",
        "setting": options.setting,
        "episodes": options.episodes,
        "device": options.device,
        "threads": torch.get_num_threads(),
        "beam_width": options.planning.beam_width,
        "horizon": options.planning.horizon,
        "identical": identical,
        **_times(ours, theirs, options.episodes),
        **_shares(options, subject, statistics.median(ours), device),
        "peak_gib": peak_gib,
    }
    _print(result)
    if options.sweep:
        result["sweep"] = sweep(
            lambda planning, episodes: Subject(options, planning, episodes), options.planning, device
        )
    return result


def _times(ours: list[float], theirs: list[float], episodes: int) -> dict[str, float | None]:
    """Returns seconds and their ratio; a plan's time is that of the call divided by its episodes."""
    median = statistics.median(ours)
    return {
        "seconds_per_call": median,
        "seconds_per_plan": median / episodes,
        "seconds_per_plan_min": min(ours) / episodes,
        "seconds_per_plan_max": max(ours) / episodes,
        "reference_seconds_per_plan": statistics.median(theirs) if theirs else None,
        "ratio": statistics.median(theirs) * episodes / median if theirs else None,
    }


def _shares(
    options: PlannerBenchmark, subject: Subject, seconds_per_call: float, device: torch.device
) -> dict[str, Any]:
    """Returns the counted work, the machine's measured rates, and the share of the roofline that was achieved."""
    cost = plan_cost(subject.config, subject.layout, options.planning)
    half = device.type == "cuda" and options.precision != "float32"
    rates = measured_rates(device, torch.bfloat16 if half else torch.float32)
    return {
        "rows_per_second": cost.rows * options.episodes / seconds_per_call,
        "steps": cost.steps,
        "rows": cost.rows,
        "gflop_per_plan": cost.flops / 1e9,
        "gbyte_per_plan": cost.bytes / 1e9,
        "measured_gflop_per_second": rates.flops / 1e9,
        "measured_gbyte_per_second": rates.bytes / 1e9,
        "roofline_share": roofline_seconds(cost, rates) * options.episodes / seconds_per_call,
    }


def _alternate(
    options: PlannerBenchmark, subject: Subject, device: torch.device
) -> tuple[list[float], list[float], bool | None]:
    """Returns seconds of our calls, seconds of the reference's plans of the first episode, and whether they agree."""
    reference = ReferencePlanner(subject.model, subject.discretizer.centers, subject.planning)
    first = subject.requests[0]
    ours: list[float] = []
    theirs: list[float] = []
    identical = None
    rounds = max(1, options.reference_repeats)
    for turn in range(rounds):
        for _ in range(len(range(turn, options.repeats, rounds)) or 1):
            duration, plans = timed(subject.plan, device)
            ours.append(duration)
        if options.reference_repeats:
            duration, expected = timed(
                lambda: reference.plan(np.asarray(first.context), np.asarray(first.observation), first.noise), device
            )
            theirs.append(duration)
            assert plans[0] is not None
            identical = bool(np.array_equal(plans[0].tokens, expected.tokens)) and identical is not False
    return ours, theirs, identical


def _print(result: dict[str, Any]) -> None:
    table = Table(title=f"Planner, {result['setting']}, {result['episodes']} episode(s), {result['device']}")
    table.add_column("")
    table.add_column("value", justify="right")
    for name, value in result.items():
        table.add_row(name.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value))
    Console().print(table)
