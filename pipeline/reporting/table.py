"""The result table: one row for the behaviour data and one for each method, for the terminal and the report."""

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.reporting.methods import DATA, label, ordered

NOTHING = "–"  # noqa: RUF001 (an en dash, as tables have it)
"""Stands in a cell that has no number."""


@dataclass(frozen=True)
class ResultRow:
    """One row of the result table.

    Attributes:
        method: Its key in the summary, or `data`.
        mean_return: Mean of the undiscounted episode returns.
        interval: Lower and upper end of the mean's 95 % interval, None where there is none.
        episodes: How many episodes the mean is over.
        decision_ms: Median milliseconds per call of the policy, None for the data.
        normalized_score: `100 (R - random) / (expert - random)`, None without reference returns.
        success_rate: Share of successful episodes, None where the environment reports no success.
    """

    method: str
    mean_return: float
    interval: tuple[float, float] | None
    episodes: int
    decision_ms: float | None
    normalized_score: float | None
    success_rate: float | None


def result_rows(summary: dict[str, Any]) -> list[ResultRow]:
    """Returns the rows of `summary.json`, the data first, then the methods from the weakest baseline on."""
    entries = {DATA: summary["data"]} if "data" in summary else {}
    entries.update(summary["methods"])
    return [_row(name, entries[name]) for name in ordered(entries)]


def _row(method: str, entry: dict[str, Any]) -> ResultRow:
    interval = entry.get("interval")
    return ResultRow(
        method=method,
        mean_return=entry["mean_return"],
        interval=(interval[0], interval[1]) if interval else None,
        episodes=entry["episodes"],
        decision_ms=entry.get("decision_ms"),
        normalized_score=entry.get("normalized_score"),
        success_rate=entry.get("success_rate"),
    )


def decimals(values: list[float]) -> int:
    """Returns how many decimals a column of `values` is printed with, so that they stand under each other."""
    largest = max((abs(value) for value in values), default=0.0)
    return 0 if largest >= 10_000 else 1 if largest >= 10 else 2 if largest >= 1 else 3


def result_cells(rows: list[ResultRow]) -> tuple[list[str], list[list[str]]]:
    """Returns the table's header and its rows of text; columns that no row fills are left out."""
    places = decimals([row.mean_return for row in rows])
    columns: list[tuple[str, list[str]]] = [
        ("", [label(row.method) for row in rows]),
        ("Mean return", [f"{row.mean_return:.{places}f}" for row in rows]),
        ("95 % interval", [interval_text(row.interval, places) for row in rows]),
        ("Score", [_number(row.normalized_score, 1) for row in rows]),
        ("Success", [_percent(row.success_rate) for row in rows]),
        ("Episodes", [str(row.episodes) for row in rows]),
        ("Decision ms", [_number(row.decision_ms, 1) for row in rows]),
    ]
    filled = [column for column in columns if any(cell != NOTHING for cell in column[1])]
    header = [name for name, _ in filled]
    return header, [list(cells) for cells in zip(*(cells for _, cells in filled), strict=True)]


def _number(value: float | None, places: int) -> str:
    return NOTHING if value is None else f"{value:.{places}f}"


def _percent(share: float | None) -> str:
    return NOTHING if share is None else f"{100 * share:.0f} %"


def interval_text(interval: tuple[float, float] | None, places: int) -> str:
    """Returns the interval with `places` decimals, a dash for none."""
    return NOTHING if interval is None else f"{interval[0]:.{places}f} to {interval[1]:.{places}f}"


def score_note(summary: dict[str, Any]) -> str:
    """Returns what 0 and 100 of the scores mean, "" without a reference."""
    reference = summary.get("reference")
    if not reference:
        return ""
    return (
        f"Score by {reference['name']}: 0 is a return of {reference['random']:.6g}, 100 of {reference['expert']:.6g}."
    )


def print_summary(summary: dict[str, Any], console: Console | None = None) -> None:
    """Prints the result table.

    Args:
        summary: The content of `summary.json`.
        console: Where to; None is standard output.
    """
    header, rows = result_cells(result_rows(summary))
    # The last word of a head goes into a second line: seven columns must fit a terminal of 80.
    heads = ["\n".join(name.rsplit(" ", 1)) for name in header]
    console = console or Console()
    widths = [max(map(len, [*head.split("\n"), *cells])) for head, *cells in zip(heads, *rows, strict=True)]
    gap = 2 if sum(widths) + 2 * (len(widths) - 1) <= console.width else 1
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for i, head in enumerate(heads):
        table.add_column(head, justify="left" if i == 0 else "right", vertical="bottom", no_wrap=True)
    for cells in rows:
        table.add_row(*cells)
    console.print(table)
    if note := score_note(summary):
        console.print(note)
