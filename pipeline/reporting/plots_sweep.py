"""The figures of a sweep: heat maps of return and decision time, and the Pareto front between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from numpy.typing import NDArray

from pipeline.reporting.figures import FAINT, INK, PAPER, Drawing, canvas, drawing, styled
from pipeline.reporting.methods import colours
from pipeline.reporting.table import decimals

PLANNER = colours(())["trajectory_transformer"]
RETURN_MAP = LinearSegmentedColormap.from_list("return", ["#eef2fb", "#3f6fd8"])
TIME_MAP = LinearSegmentedColormap.from_list("time", ["#fbf2e8", "#c9772a"])


@dataclass(frozen=True)
class SweepPoint:
    """One tried setting.

    Attributes:
        settings: Value of each swept setting, by dotted name.
        mean_return: Mean of the undiscounted episode returns.
        interval: Lower and upper end of its 95 % interval, None where there is none.
        decision_ms: Median milliseconds per decision.
        episodes: How many episodes the mean is over.
    """

    settings: dict[str, Any]
    mean_return: float
    interval: tuple[float, float] | None
    decision_ms: float
    episodes: int


def pareto_front(points: Sequence[SweepPoint]) -> list[SweepPoint]:
    """Returns the settings that no other one beats in both return and decision time, the fastest first."""
    front: list[SweepPoint] = []
    for point in sorted(points, key=lambda point: (point.decision_ms, -point.mean_return)):
        if not front or point.mean_return > front[-1].mean_return:
            front.append(point)
    return front


def heat_map_settings(points: Sequence[SweepPoint]) -> tuple[str, str] | None:
    """Returns the two settings with the most values, or None where fewer than two vary."""
    counts = {name: len({repr(point.settings[name]) for point in points}) for name in points[0].settings}
    varying = sorted((name for name in counts if counts[name] > 1), key=lambda name: -counts[name])
    return (varying[0], varying[1]) if len(varying) >= 2 else None


@styled
def return_heat_map(points: Sequence[SweepPoint], settings: tuple[str, str]) -> Drawing:
    """The best mean return for each pair of values of the two settings."""
    best = _grid(points, settings, lambda cell: max(point.mean_return for point in cell))
    return _heat_map(best, settings, points, "Return", "Mean return", RETURN_MAP)


@styled
def time_heat_map(points: Sequence[SweepPoint], settings: tuple[str, str]) -> Drawing:
    """The decision time of the setting with the best return for each pair of values of the two settings."""
    times = _grid(points, settings, lambda cell: max(cell, key=lambda point: point.mean_return).decision_ms)
    return _heat_map(times, settings, points, "Decision time of each setting", "Milliseconds per decision", TIME_MAP)


def _values(points: Sequence[SweepPoint], setting: str) -> list[Any]:
    values = {repr(point.settings[setting]): point.settings[setting] for point in points}.values()
    numbers = [value for value in values if isinstance(value, int | float)]
    return sorted(numbers) + [value for value in values if not isinstance(value, int | float)]


def _grid(points: Sequence[SweepPoint], settings: tuple[str, str], reduce: Any) -> NDArray[np.float64]:
    columns, rows = (_values(points, setting) for setting in settings)
    grid = np.full((len(rows), len(columns)), np.nan)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            cell = [p for p in points if p.settings[settings[0]] == column and p.settings[settings[1]] == row]
            if cell:
                grid[i, j] = reduce(cell)
    return grid


def _heat_map(
    grid: NDArray[np.float64],
    settings: tuple[str, str],
    points: Sequence[SweepPoint],
    title: str,
    quantity: str,
    colour_map: LinearSegmentedColormap,
) -> Drawing:
    figure, (ax,) = canvas(1.0 + 0.45 * grid.shape[0])
    ax.pcolormesh(grid, cmap=colour_map, edgecolors=PAPER, linewidth=2)
    low, high = np.nanmin(grid), np.nanmax(grid)
    places = decimals([float(high)])
    for (i, j), value in np.ndenumerate(grid):
        if np.isnan(value):
            ax.text(j + 0.5, i + 0.5, "not run", ha="center", va="center", color=FAINT, fontsize=7)
            continue
        dark = high > low and (value - low) / (high - low) > 0.55
        colour = "#ffffff" if dark else "#20242a"  # on the cell's own colour, whatever the page's
        ax.text(j + 0.5, i + 0.5, f"{value:.{places}f}", ha="center", va="center", color=colour)
    for axis, setting in ((ax.xaxis, settings[0]), (ax.yaxis, settings[1])):
        values = _values(points, setting)
        axis.set_ticks([k + 0.5 for k in range(len(values))], [str(value) for value in values])
        axis.set_label_text(setting)
    ax.grid(visible=False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    further = [name for name in points[0].settings if name not in settings and len(_values(points, name)) > 1]
    note = f" Of each cell's settings ({', '.join(further)}) the one with the best return." if further else ""
    return drawing(figure, title, f"{quantity} over {settings[0]} and {settings[1]}.", f"{quantity}.{note}")


@styled
def pareto_plot(points: Sequence[SweepPoint]) -> Drawing:
    """Return against decision time, one dot a setting, the Pareto front joined."""
    front = pareto_front(points)
    figure, (ax,) = canvas(3.0)
    for point in points:
        colour = PLANNER if point in front else "#a9b1bb"
        if point.interval is not None:
            ax.plot((point.decision_ms,) * 2, point.interval, color=colour, linewidth=1, alpha=0.6)
        ax.plot(point.decision_ms, point.mean_return, "o", color=colour, markersize=5)
    ax.step([p.decision_ms for p in front], [p.mean_return for p in front], where="post", color=PLANNER, linewidth=1.2)
    for point in front:
        words = ", ".join(f"{value}" for value in point.settings.values())
        ax.annotate(words, (point.decision_ms, point.mean_return), (5, -9), textcoords="offset points", color=INK)
    ax.set_xlabel("milliseconds per decision")
    ax.set_ylabel("mean return")
    ax.set_xlim(left=0)
    ax.margins(x=0.15)
    names = ", ".join(name.split(".")[-1] for name in points[0].settings)
    return drawing(
        figure,
        "Return against decision time",
        f"{len(front)} of {len(points)} settings are on the Pareto front of return against decision time.",
        f"Blue: no other setting is both faster and better. Labels: {names}. Bars: 95 % intervals.",
    )
