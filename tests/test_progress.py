import io
import re
from collections.abc import Callable
from itertools import pairwise

import pytest

from pipeline.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("pipeline.progress.time.monotonic", clock)
    return clock


def run_stage(clock: Clock, seconds: int) -> list[str]:
    stream = io.StringIO()
    with Progress("train", total=seconds * 10, unit="steps", stream=stream) as progress:
        for tick in range(seconds * 10):
            clock.now = tick / 10
            progress.update(tick, loss=1.5)
        progress.finish("done")
    return stream.getvalue().splitlines()


def test_it_prints_at_most_one_line_a_second(clock: Clock) -> None:
    lines = run_stage(clock, 10)
    assert 5 <= len(lines) <= 10


def test_long_stages_print_sparser_lines(clock: Clock) -> None:
    assert len(run_stage(clock, 3600)) < 130


def test_a_stage_of_hours_still_prints_a_line_every_five_minutes(clock: Clock) -> None:
    stream = io.StringIO()
    printed = [0.0]
    with Progress("train", stream=stream) as progress:
        for clock.now in range(12 * 3600):
            before = stream.tell()
            progress.update(clock.now)
            printed += [clock.now] if stream.tell() > before else []
    assert max(after - before for before, after in pairwise(printed)) == 300
    assert len([now for now in printed if now <= 2 * 3600]) < 130
    assert len(printed) < 130 + 10 * 12


def test_a_line_tells_how_much_is_done_how_fast_and_how_long_it_takes(clock: Clock) -> None:
    line = run_stage(clock, 100)[0]
    assert line == "train     10/1,000 steps · 10/s · 1 min 39 s left · loss 1.5"


def test_the_rate_of_a_resumed_stage_leaves_out_what_was_there_before(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress("collect", total=1000, unit="steps", stream=stream) as progress:
        progress.update(900)
        clock.now = 2.0
        progress.update(920)
    assert "920/1,000 steps · 10/s · 8 s left" in stream.getvalue()


def test_it_says_what_is_waited_for_which_counts_for_no_rate(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress("train", total=1000, unit="steps", stream=stream) as progress:
        for clock.now in (5.0, 5.1, 65.0):
            progress.wait("1 worker of 2 CPUs, 0 GPUs")
        progress.update(0)
        clock.now = 75.0
        progress.update(100)
    assert stream.getvalue().splitlines() == [
        "train     waiting for 1 worker of 2 CPUs, 0 GPUs · 5 s",
        "train     waiting for 1 worker of 2 CPUs, 0 GPUs · 1 min 05 s",
        "train     100/1,000 steps · 10/s · 1 min 30 s left",
    ]


def waited(clock: Clock, seconds: range, what: Callable[[int], str]) -> list[int]:
    """Returns the seconds at which a stage that began to wait at 0 wrote a line."""
    stream, told = io.StringIO(), []
    with Progress("evaluate", stream=stream) as progress:
        for second in seconds:
            clock.now, before = float(second), stream.tell()
            progress.wait(what(second))
            told += [second] if stream.tell() > before else []
    return told


def test_a_log_tells_of_waiting_every_ten_seconds_and_every_thirty_after_a_minute(clock: Clock) -> None:
    told = waited(clock, range(200), lambda second: f"the first episodes, {second:,} steps so far")
    assert told == [1, 11, 21, 31, 41, 51, 81, 111, 141, 171]


def test_a_log_tells_at_once_when_something_else_is_waited_for(clock: Clock) -> None:
    told = waited(
        clock, range(30), lambda second: "an actor" if second < 5 else f"episodes on {second // 20 + 1} actor"
    )
    assert told == [1, 5, 15, 25]


def test_the_time_waited_is_counted_from_the_last_thing_that_was_done(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress("train", stream=stream) as progress:
        for clock.now in (3600.0, 3605.0):
            progress.update(1)
        clock.now = 3620.0
        progress.wait("a worker")
    assert stream.getvalue().splitlines()[-1] == "train     waiting for a worker · 15 s"


def test_who_knows_better_tells_how_long_it_takes(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress("train", total=1000, unit="steps", stream=stream) as progress:
        progress.update(0)
        for clock.now, left in ((10.0, 7200.0), (20.0, None)):
            progress.update(10 * clock.now, seconds_left=left)
    assert [line.split(" · ")[-1] for line in stream.getvalue().splitlines()] == ["2 h 00 min left", "1 min 20 s left"]


def test_details_are_behind_the_line_where_there_is_no_terminal(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress("train", stream=stream) as progress:
        for clock.now in (1.0, 1.1, 1.2):
            progress.update(1, details=["lr 0.1 · 2 GiB", "accuracy 3 %"])
    assert stream.getvalue() == "train     1 · lr 0.1 · 2 GiB · accuracy 3 %\n"


def test_notes_stay_and_the_next_line_waits_its_time(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress("train", stream=stream) as progress:
        for clock.now in (1.0, 1.1, 2.2):
            progress.note(f"at {clock.now}", "and more")
            progress.update(1)
    assert stream.getvalue().splitlines() == [
        line for now in (1.0, 1.1, 2.2) for line in (f"train     at {now}", "          and more")
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "dumb-but-live")
    monkeypatch.setenv("COLUMNS", "60")
    return Terminal()


def visible(terminal: Terminal) -> list[str]:
    """What was printed, without what moves the cursor and colours."""
    return [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).rstrip() for line in re.split(r"[\r\n]+", terminal.getvalue())]


def test_on_a_narrow_terminal_live_rows_are_cut_and_notes_are_folded(clock: Clock, terminal: Terminal) -> None:
    facts = [f"fact {number:2}" for number in range(12)]
    with Progress("train", total=1000, unit="steps", stream=terminal) as progress:
        progress.update(1, details=[" · ".join(facts)], loss=0.5)
        progress.note(" · ".join(facts))
    lines = visible(terminal)
    assert max(map(len, lines)) <= 60
    assert "train     1/1,000 steps · loss 0.5" in lines
    assert [line for line in lines if line.endswith("…")]
    noted = lines[lines.index("train     fact  0 · fact  1 · fact  2 · fact  3 · fact  4") :]
    assert noted[1] == "          fact  5 · fact  6 · fact  7 · fact  8 · fact  9"
    assert noted[2] == "          fact 10 · fact 11"


def test_facts_are_printed_as_they_are_whatever_brackets_they_hold() -> None:
    stream = io.StringIO()
    with Progress("evaluate", stream=stream) as progress:
        progress.finish("[1.0, 2.0] in [bold]")
    assert "[1.0, 2.0] in [bold]" in stream.getvalue()
