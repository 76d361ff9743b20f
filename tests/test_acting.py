from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from pipeline.acting import Decision, NearestActions, Vector
from pipeline.data.spaces import Spaces

SPACES = Spaces.of(Box(-1, 1, (2,)), Box(0, 5, (1,), np.int32))


class Fractions:
    """Decides 3.7 in slot 0 and 9.2 in slot 1, and remembers what it is told."""

    num_slots = 2

    def __init__(self) -> None:
        self.told: list[Any] = []

    def reset(self, slot: int, seed: int) -> None:
        self.told.append((slot, seed))

    def act(self, observations: Mapping[int, Vector]) -> dict[int, Decision]:
        return {slot: Decision(np.array([(3.7, 9.2)[slot]]), predicted_return=slot + 0.5) for slot in observations}

    def record(self, slot: int, action: Vector, reward: float) -> None:
        self.told.append((slot, action.tolist(), reward))


def test_what_is_decided_becomes_an_action_of_the_environment_and_nothing_else_changes() -> None:
    inner = Fractions()
    policy = NearestActions(inner, SPACES)
    policy.reset(1, 7)
    decisions = policy.act({0: np.zeros(2), 1: np.zeros(2)})
    assert {slot: decision.action.tolist() for slot, decision in decisions.items()} == {0: [4.0], 1: [5.0]}
    assert [decision.predicted_return for decision in decisions.values()] == [0.5, 1.5]
    policy.record(0, decisions[0].action, 2.5)
    assert inner.told == [(1, 7), (0, [4.0], 2.5)]
    assert policy.num_slots == 2
