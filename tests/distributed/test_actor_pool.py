"""What a pool does about actors that do not start; its work, losses and limits: test_pool.py and test_collect.py."""

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from pipeline.distributed import actor_pool
from pipeline.distributed.actor_pool import ActorPool, Limit, Terms
from pipeline.errors import ClusterError

pytestmark = pytest.mark.ray

TERMS = Terms(1, 0.0, 2, Limit("a.start", 600.0), Limit("a.call", 600.0), advice="Wait.")


class NeverStarts:
    def __init__(self) -> None:
        os._exit(1)

    def ready(self) -> bool:
        return True


class Waits:
    """Answers when its file is there."""

    def ready(self) -> bool:
        return True

    def work(self, piece: int, go: Path) -> int:
        deadline = time.monotonic() + 60
        while not go.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        return piece


class Pieces:
    """Two pieces for two actors."""

    slots = 1

    def __init__(self, go: Path, stop: Callable[[list[Any]], None]) -> None:
        self._go, self._stop = go, stop
        self._left, self._calls, self.done = [1, 0], [], []

    def num_actors(self) -> int:
        return 2

    def next_piece(self) -> int | None:
        return self._left.pop() if self._left else None

    def call(self, actor: Any, pieces: Mapping[int, int]) -> Any:
        self._calls.append(actor.work.remote(next(iter(pieces)), self._go))
        if len(self._calls) == 2:
            self._stop(self._calls)
        return self._calls[-1]

    def take(self, answer: int) -> list[int]:
        self.done.append(answer)
        return [answer]

    def give_up(self, piece: int, reason: str) -> None:
        pytest.fail(f"piece {piece} was lost: {reason}")

    def is_done(self) -> bool:
        return len(self.done) == 2

    def show(self, *_: Any) -> None:
        pass


def test_answers_that_came_while_the_driver_was_stopped_are_taken(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, real = [0], time.monotonic

    def stop(calls: list[Any]) -> None:
        (tmp_path / "go").touch()
        ray.wait(calls, num_returns=2, timeout=60)
        late[0] = 3600

    monkeypatch.setattr(actor_pool, "time", SimpleNamespace(monotonic=lambda: real() + late[0]))
    work = Pieces(tmp_path / "go", stop)
    terms = dataclasses.replace(TERMS, max_attempts=1)
    with ActorPool(Waits, (), terms) as pool:
        pool.run(work)
    assert sorted(work.done) == [0, 1]


class Endless:
    """Work that is never done."""

    slots = 1

    def num_actors(self) -> int:
        return 1

    def is_done(self) -> bool:
        return False

    def show(self, *_: Any) -> None:
        pass


def test_actors_that_end_before_they_answer_are_not_started_for_ever(ray_session: None) -> None:
    told = pytest.raises(ClusterError, match=r"^2 actors in a row ended before they answered; expected them to start")
    with told, ActorPool(NeverStarts, (), TERMS) as pool:
        pool.run(Endless())
