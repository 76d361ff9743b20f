from dataclasses import dataclass, field

import pytest

from pipeline.training.control import Command, Control
from pipeline.training.world import World


@dataclass(frozen=True)
class Two(World):
    """Two workers; what the other one says is made up."""

    size: int = 2
    other: tuple[int, int] = (Command.CONTINUE, False)
    said: list[tuple[int, ...]] = field(default_factory=list)

    def all_reduce_max(self, *values: int) -> list[int]:
        self.said.append(values)
        return [max(ours, theirs) for ours, theirs in zip(values, self.other, strict=True)]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("pipeline.training.control.time", clock)
    return clock


def agreed_at(world: World, clock: Clock, step_seconds: float, steps: int = 20) -> list[int]:
    """The steps after which the workers ask each other."""
    control, asked, count = Control(world, 0, 1e9, lambda: False), [], 0
    for step in range(1, steps + 1):
        clock.now += step_seconds
        control.command(step)
        if isinstance(world, Two) and len(world.said) > count:
            count = len(world.said)
            asked.append(step)
    return asked


def test_workers_of_fast_steps_agree_now_and_then(clock: Clock) -> None:
    assert agreed_at(Two(), clock, 0.1) == [1, 9, 17]


def test_workers_of_slow_steps_agree_at_each(clock: Clock) -> None:
    """Eight steps of 4 s would be longer than a notice."""
    assert agreed_at(Two(), clock, 4.0) == list(range(1, 21))


def test_what_is_slow_for_one_worker_is_slow_for_all(clock: Clock) -> None:
    assert agreed_at(Two(other=(Command.CONTINUE, True)), clock, 0.1) == list(range(1, 21))


def test_workers_become_fast_and_slow_again_together(clock: Clock) -> None:
    world = Two()
    control = Control(world, 0, 1e9, lambda: False)
    asked = []
    for step in range(1, 31):
        clock.now += 4.0 if step in (1, 2, 12) else 0.1
        before = len(world.said)
        control.command(step)
        asked += [step] if len(world.said) > before else []
    # Step 12 makes the eight steps up to 19 slow on average, so the next look comes at once.
    assert asked == [1, 2, 3, 11, 19, 20, 28]


def test_the_most_urgent_wish_of_all_counts(clock: Clock) -> None:
    for other, ours, expected in (
        (Command.STOP, False, Command.STOP),
        (Command.CHECKPOINT, True, Command.STOP),
        (Command.CHECKPOINT, False, Command.CHECKPOINT),
        (Command.CONTINUE, False, Command.CONTINUE),
    ):
        control = Control(Two(other=(other, False)), 0, 1e9, lambda stop=ours: stop)  # type: ignore[misc]
        clock.now += 1.0
        assert control.command(1) is expected


def test_one_worker_alone_looks_at_every_step_but_at_the_disk_twice_a_second(clock: Clock) -> None:
    looks: list[float] = []

    def stop_requested() -> bool:
        looks.append(clock.now)
        return False

    control = Control(World(), 0, 1.0, stop_requested)
    commands = []
    for step in range(1, 700):
        clock.now = step / 10
        commands.append(control.command(step))
    assert looks[:3] == [0.5, 1.0, 1.5]
    assert commands.index(Command.CHECKPOINT) + 1 == 600
    control.saved()
    clock.now = 129.8
    assert control.command(700) is Command.CONTINUE
    clock.now = 130.0
    assert control.command(701) is Command.CHECKPOINT
