"""The validation report as a table for the terminal."""

from rich import box
from rich.table import Table

from pipeline.data.statistics import Statistics


def statistics_table(statistics: Statistics) -> Table:
    """Returns one row per source: how much it holds and what its episodes earned."""
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("data", min_width=10, overflow="fold")
    for heading in ("episodes", "steps", "return", "min, median, max", "terminated,\ntruncated"):
        table.add_column(heading, justify="right", no_wrap=True)
    for entry in statistics.returns:
        places = entry.quantiles[0], entry.quantiles[len(entry.quantiles) // 2], entry.quantiles[-1]
        table.add_row(
            entry.source,
            f"{entry.episodes:,}",
            f"{entry.steps:,}",
            f"{_short(entry.mean)} ± {_short(entry.deviation)}",
            ", ".join(_short(number) for number in places),
            f"{entry.terminations:,},{entry.truncations:,}",
        )
    return table


def statistics_notes(statistics: Statistics) -> list[str]:
    """Returns one sentence for each thing that a reader of the table should know beside it."""
    notes = []
    dropped = sum(entry.dropped_episodes for entry in statistics.returns)
    if dropped:
        notes.append(f"{dropped:,} invalid episodes were left out: {statistics.invalid[0]}, ...")
    divided = sum(entry.divided_recordings for entry in statistics.returns)
    if divided:
        notes.append(f"{divided:,} recorded episodes have ends in their middle and were divided there")
    few = statistics.few_values
    if few:
        shown = ", ".join(few[:5]) + (", ..." if len(few) > 5 else "")
        notes.append(f"Fewer distinct values than bins, and so fewer bins: {shown} ({len(few)} of the dimensions)")
    clipped = sum(dimension.clipped for dimension in statistics.dimensions)
    if clipped:
        notes.append(f"{clipped:,} values lie outside the bin edges and have the outer bins' tokens")
    return notes


def _short(number: float) -> str:
    return f"{number:.0f}" if abs(number) >= 1000 else f"{number:.1f}"
