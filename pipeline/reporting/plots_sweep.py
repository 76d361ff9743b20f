"""The figures of a sweep: heat maps of return and decision time, and the Pareto front between them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from pipeline.evaluation.sweep import SweepRow
from pipeline.reporting.figures import FAINT, INK, PAPER, Drawing, canvas, drawing, styled
from pipeline.reporting.methods import colours
from pipeline.reporting.table import decimals

PLANNER = colours(())["trajectory_transformer"]
OTHERS = "#a9b1bb"
RETURN_MAP = LinearSegmentedColormap.from_list("return", ["#eef2fb", PLANNER])
TIME_MAP = LinearSegmentedColormap.from_list("time", ["#fbf2e8", "#c9772a"])
MAX_VALUES = 12
"""Values of one setting that a heat map has room for; a random search over a range has more."""

Pair = tuple[str, str]


def heat_map_settings(rows: Sequence[SweepRow]) -> Pair | None:
    """Returns the two settings with the most values, None where no two vary or a map has no room for their values."""
    varying = [name for name in rows[0].settings if 1 < len(_values(rows, name)) <= MAX_VALUES]
    varying.sort(key=lambda name: -len(_values(rows, name)))
    return (varying[0], varying[1]) if len(varying) >= 2 else None


def _values(rows: Sequence[SweepRow], setting: str) -> list[Any]:
    values = list({repr(row.settings[setting]): row.settings[setting] for row in rows}.values())
    return sorted(values, key=lambda value: (not isinstance(value, int | float), value if value is not None else 0))


@styled
def return_heat_map(rows: Sequence[SweepRow], pair: Pair) -> Drawing:
    """The mean return for each pair of values of two settings."""
    return _heat_map(rows, pair, lambda row: row.mean_return, "Return", "Mean return", RETURN_MAP)


@styled
def time_heat_map(rows: Sequence[SweepRow], pair: Pair) -> Drawing:
    """The decision time for each pair of values of two settings."""
    quantity = "Milliseconds per decision"
    return _heat_map(rows, pair, lambda row: row.decision_ms, "Decision time by setting", quantity, TIME_MAP)


def _heat_map(
    rows: Sequence[SweepRow],
    pair: Pair,
    value_of: Callable[[SweepRow], float],
    title: str,
    quantity: str,
    colour_map: LinearSegmentedColormap,
) -> Drawing:
    columns, lines = (_values(rows, setting) for setting in pair)
    # Further settings leave several rows for one cell: the one with the best return stands for it in both maps.
    best = {
        (row.settings[pair[0]], row.settings[pair[1]]): row for row in sorted(rows, key=lambda row: row.mean_return)
    }
    grid = np.full((len(lines), len(columns)), np.nan)
    for (column, line), row in best.items():
        grid[lines.index(line), columns.index(column)] = value_of(row)
    figure, (ax,) = canvas(1.0 + 0.45 * len(lines))
    ax.pcolormesh(grid, cmap=colour_map, edgecolors=PAPER, linewidth=2)
    _write_cells(ax, grid)
    ax.set_xticks(np.arange(len(columns)) + 0.5, [str(value) for value in columns])
    ax.set_yticks(np.arange(len(lines)) + 0.5, [str(value) for value in lines])
    ax.set_xlabel(pair[0].partition(".")[2])
    ax.set_ylabel(pair[1].partition(".")[2])
    ax.grid(visible=False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    further = [name for name in rows[0].settings if name not in pair and len(_values(rows, name)) > 1]
    note = f" For each cell the value of {', '.join(further)} with the best return." if further else ""
    return drawing(figure, title, f"{quantity} over {pair[0]} and {pair[1]}.", f"{quantity}.{note}")


def _write_cells(ax: Any, grid: Any) -> None:
    low, high = np.nanmin(grid), np.nanmax(grid)
    places = decimals(list(grid[~np.isnan(grid)]))
    for (i, j), value in np.ndenumerate(grid):
        if np.isnan(value):
            text, colour = "not run", FAINT
        else:
            # On the cell's own colour, whatever the page's.
            text, colour = f"{value:.{places}f}", "#ffffff" if value - low > 0.55 * (high - low) else "#20242a"
        ax.text(j + 0.5, i + 0.5, text, ha="center", va="center", color=colour)


@styled
def pareto_plot(rows: Sequence[SweepRow]) -> Drawing:
    """Return against decision time, one dot a setting, the Pareto front joined, the choice ringed."""
    front = sorted((row for row in rows if row.pareto), key=lambda row: row.decision_ms)
    figure, (ax,) = canvas(3.0)
    for row in rows:
        colour = PLANNER if row.pareto else OTHERS
        if row.interval is not None:
            ax.plot((row.decision_ms,) * 2, row.interval, color=colour, linewidth=1, alpha=0.6)
        ax.plot(row.decision_ms, row.mean_return, "o", color=colour, markersize=5)
        if row.chosen:
            ax.plot(row.decision_ms, row.mean_return, "o", color=PLANNER, markersize=11, fillstyle="none")
    ax.step([r.decision_ms for r in front], [r.mean_return for r in front], where="post", color=PLANNER, linewidth=1.2)
    for row in front:
        words = ", ".join(str(value) for value in row.settings.values())
        place = (row.decision_ms, row.mean_return)
        ax.annotate(words, place, (7, -10), textcoords="offset points", color=INK, fontsize=8)
    ax.set_xlabel("milliseconds per decision")
    ax.set_ylabel("mean return")
    ax.margins(x=0.12)
    ax.set_xlim(left=0)
    names = ", ".join(name.partition(".")[2] for name in rows[0].settings)
    return drawing(
        figure,
        "Return against decision time",
        f"{len(front)} of {len(rows)} settings are on the Pareto front of return against decision time.",
        f"Blue: no other setting is both faster and better; ringed: chosen. Labels: {names}. Bars: 95 % intervals.",
    )
