import io
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


def test_facts_are_printed_as_they_are_whatever_brackets_they_hold() -> None:
    stream = io.StringIO()
    with Progress("evaluate", stream=stream) as progress:
        progress.finish("[1.0, 2.0] in [bold]")
    assert "[1.0, 2.0] in [bold]" in stream.getvalue()
