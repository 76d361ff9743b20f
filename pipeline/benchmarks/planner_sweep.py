"""How a plan's time grows with beam width, horizon and episodes, and the law that fits it."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from pipeline.acting import Plan
from pipeline.benchmarks.planner_cost import PlanCost
from pipeline.planning.config import PlanningConfig
from pipeline.timing import timed

BEAM_WIDTHS, HORIZONS, EPISODES = (16, 32, 64, 128, 256), (1, 3, 5, 10, 15), (1, 2, 4, 8)
REPEATS = 3


class Planning(Protocol):
    """What can be timed."""

    def plan(self) -> Sequence[Plan | None]:
        """Plans for all episodes in one call."""

    def cost(self) -> PlanCost:
        """Returns the work of one call."""


def sweep(
    make: Callable[[PlanningConfig, int], Planning], planning: PlanningConfig, device: torch.device
) -> dict[str, Any]:
    """Prints seconds per call and per plan for each setting; returns them and the coefficients of the law.

    The law: seconds per call = a * dependent steps + b * rows + c * keys that the rows meet.

    Args:
        make: Returns something to time for a search and a number of episodes.
        planning: The search; one of its numbers is varied at a time.
        device: Where it runs.
    """
    points = []
    costs = []
    for varied, episodes in _searches(planning):
        subject = make(varied, episodes)
        subject.plan()
        duration = float(np.median([timed(subject.plan, device)[0] for _ in range(REPEATS)]))
        costs.append(subject.cost())
        points.append(
            {
                "beam_width": varied.beam_width,
                "horizon": varied.horizon,
                "episodes": episodes,
                "seconds_per_call": duration,
                "seconds_per_plan": duration / episodes,
            }
        )
    law = fitted_law(costs, [point["seconds_per_call"] for point in points])
    _print(points, law)
    return {"points": points, "law": law}


def _searches(planning: PlanningConfig) -> list[tuple[PlanningConfig, int]]:
    widths = [(planning.model_copy(update={"beam_width": width}), 1) for width in BEAM_WIDTHS]
    horizons = [(planning.model_copy(update={"horizon": horizon}), 1) for horizon in HORIZONS]
    return widths + horizons + [(planning, episodes) for episodes in EPISODES]


def fitted_law(costs: Sequence[PlanCost], durations: Sequence[float]) -> dict[str, float]:
    """Returns the law's coefficients in microseconds and nanoseconds, and its largest relative error.

    Least squares of the relative error, so that short plans count as much as long ones.
    """
    factors = np.array([[cost.steps, cost.rows, cost.row_keys] for cost in costs], dtype=np.float64)
    measured = np.array(durations)
    scaled = factors / measured[:, None]
    coefficients, *_ = np.linalg.lstsq(scaled, np.ones(len(measured)), rcond=None)
    error = np.abs(scaled @ coefficients - 1).max()
    return {
        "microseconds_per_step": float(coefficients[0] * 1e6),
        "microseconds_per_row": float(coefficients[1] * 1e6),
        "nanoseconds_per_key": float(coefficients[2] * 1e9),
        "largest_relative_error": float(error),
    }


def _print(points: list[dict[str, Any]], law: dict[str, float]) -> None:
    table = Table("beam width", "horizon", "episodes", "seconds per call", "seconds per plan")
    for point in points:
        table.add_row(*(f"{value:.4g}" for value in point.values()))
    console = Console()
    console.print(table)
    console.print(", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in law.items()))
