"""One stage's progress: a live line on a terminal, sparse plain lines everywhere else.

A line tells how much is done, how fast, how long it will take, and whatever facts the stage adds. It deliberately
knows nothing of stages: they call `update` as often as they like.
"""

import re
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

Fact = str | int | float | None

MAX_SILENT_SECONDS = 300.0
"""A log whose last line is older looks like one of a stage that hangs."""

MINUTE = 60.0

SEPARATOR = " · "
MIN_WIDTH_OF_BAR = 100
"""Columns; on a narrower terminal they are needed for the words."""


class Progress:
    """A stage's progress, used as a context manager.

    On a terminal: a live line with a bar, and rows of details under it. Elsewhere: one line a second at first, then
    sparser, about 130 in the first two hours and twelve an hour from then on; while it waits, one every 10 s, and after
    a minute every 30 s.

    Args:
        stage: Word in front of the line, for example `train`.
        total: Units of the whole stage, None where nobody knows.
        unit: What is counted, plural, for example `episodes`.
        stream: Where to write; standard output if None.
    """

    def __init__(self, stage: str, total: float | None = None, unit: str = "", stream: TextIO | None = None) -> None:
        self._stage, self._total, self._unit = stage, total, unit
        # highlight and markup off: facts are printed as they are, whatever brackets they hold.
        self._console = Console(file=stream or sys.stdout, highlight=False, markup=False, soft_wrap=True)
        self._live = Live(console=self._console, transient=True, auto_refresh=False) if self._on_terminal else None
        self._started = self._printed = self._moved = time.monotonic()
        self._awaited = ""
        self._first: tuple[float, float] | None = None
        self._finished = False

    @property
    def _on_terminal(self) -> bool:
        return self._console.is_terminal

    def __enter__(self) -> "Progress":
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def update(
        self,
        done: float,
        total: float | None = None,
        seconds_left: float | None = None,
        details: Sequence[str] = (),
        **facts: Fact,
    ) -> None:
        """Shows that `done` units are done.

        Args:
            done: Units done so far, what an earlier run left included.
            total: Replaces the total, where it became known only now.
            seconds_left: Of the whole stage, from whoever knows better than the rate tells.
            details: Further rows: under the line on a terminal, behind it elsewhere.
            **facts: Shown behind the rate as `name value`; None is left out.
        """
        now = self._moved = time.monotonic()
        self._awaited = ""
        self._total = self._total if total is None else total
        # The rate counts from the first update: a resumed stage starts with work that it did not do.
        self._first = self._first or (now, done)
        every = min(max(1.0, (now - self._started) / 20), MAX_SILENT_SECONDS)
        self._show([self._describe(done, now, seconds_left, facts), *details], done, now, every)

    def wait(self, what: str) -> None:
        """Shows what the stage waits for, and for how long; this time counts for no rate."""
        now = time.monotonic()
        waited, words = now - self._moved, re.sub(r"[\d,.]+", "", what)
        # Other words are news, and shown at once; other numbers in them are not.
        every = 1.0 if words != self._awaited else 10.0 if waited < MINUTE else 30.0
        if self._show([f"{self._stage:<9} waiting for {what} · {duration(waited)}"], 0.0, now, every):
            self._awaited = words

    def note(self, *rows: str) -> None:
        """Prints rows that stay, the first one behind the stage's name; too long ones are folded on a terminal."""
        texts = [f"{self._stage if index == 0 else '':<9} {row}" for index, row in enumerate(rows)]
        if self._on_terminal:
            texts = [line for text in texts for line in _folded(text, self._console.width)]
        self._console.print("\n".join(texts))
        self._printed = time.monotonic()

    def _show(self, rows: list[str], done: float, now: float, every: float) -> bool:
        """Shows `rows` on a terminal, and elsewhere `every` so many seconds; returns whether it did."""
        if self._live:
            self._live.update(self._with_bar(rows, done), refresh=True)
            return True
        if now - self._printed < every:
            return False
        self._printed = now
        # In one line there is nothing that details would be lined up with.
        self._console.print(SEPARATOR.join([rows[0], *(" ".join(row.split()) for row in rows[1:])]))
        return True

    def finish(self, text: str) -> None:
        """Ends the stage with its last line, `text`, and the seconds that it took."""
        if self._live:
            self._live.stop()
            self._live = None
        self._console.print(f"{self._stage:<9} {text} ({duration(time.monotonic() - self._started)})")

    def _describe(self, done: float, now: float, seconds_left: float | None, facts: dict[str, Fact]) -> str:
        parts = [f"{done:,.0f}" + (f"/{self._total:,.0f}" if self._total else "") + f" {self._unit}".rstrip()]
        assert self._first is not None
        seconds, units = now - self._first[0], done - self._first[1]
        if seconds > 0 and units > 0:
            rate = units / seconds
            parts.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s")
            if self._total and seconds_left is None:
                seconds_left = max(0.0, self._total - done) / rate
        if seconds_left is not None:
            parts.append(f"{duration(seconds_left)} left")
        parts += [f"{name.replace('_', ' ')} {_number(value)}" for name, value in facts.items() if value is not None]
        return f"{self._stage:<9} " + SEPARATOR.join(parts)

    def _with_bar(self, rows: list[str], done: float) -> Group:
        indented = [rows[0], *(f"{'':<9} {row}" for row in rows[1:])]
        first, *details = [Text(row, no_wrap=True, overflow="ellipsis") for row in indented]
        if self._console.width < MIN_WIDTH_OF_BAR:
            return Group(first, *details)
        line = Table.grid(padding=(0, 1))
        line.add_row(ProgressBar(total=self._total, completed=done, width=20, pulse=self._total is None), first)
        return Group(line, *details)


def _folded(text: str, width: int) -> list[str]:
    """Returns `text` in lines that fit into `width`, broken between its facts."""
    first, *rest = text.split(SEPARATOR)
    lines = [first]
    for fact in rest:
        if len(lines[-1] + SEPARATOR + fact) <= width:
            lines[-1] += SEPARATOR + fact
        else:
            lines.append(" " * 10 + fact)
    return lines


def duration(seconds: float) -> str:
    """Returns `seconds` as `12 s`, `3 min 05 s` or `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _number(value: Fact) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)
