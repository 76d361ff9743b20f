"""What acts in episodes: one call decides for every running slot. Whatever acts is a `Policy`.

An episode's actions depend on the policy's configuration and on the seed given to `reset` alone, not on its slot and
not on its neighbours.

Shape letters: O observation_dim, A action_dim, D tokens of a transition, H horizon.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.data.spaces import Spaces
from pipeline.errors import EvaluationError
from pipeline.seeding import stream

Vector = NDArray[np.float64]

RANDOM = "random"
"""What the row of the random policy is called."""


@dataclass(frozen=True)
class Plan:
    """The best sequence of one search.

    Attributes:
        tokens: (H, D) int64; the first row's observation is the current one.
        actions: (H, A) float64, decoded.
        rewards, values: (H,) estimates of each step.
        predicted_return: `sum_i g^i r_i + g^H V_H`, from the current step on.
    """

    tokens: NDArray[np.int64]
    actions: NDArray[np.float64]
    rewards: NDArray[np.float64]
    values: NDArray[np.float64]
    predicted_return: float


@dataclass(frozen=True)
class Decision:
    """What a policy does at one step of one episode.

    Attributes:
        action: (A,) float64, in the data's unit; what is executed is the nearest action that the environment has.
        predicted_return: Discounted return from this step on that the plan promises; NaN where there is no new plan.
        plan: What a planner made at this step, None where it made none.
    """

    action: Vector
    predicted_return: float = math.nan
    plan: Plan | None = None


class Policy(Protocol):
    """Acts in up to `num_slots` episodes at once."""

    num_slots: int

    def reset(self, slot: int, seed: int) -> None:
        """Begins an episode in `slot`; whatever ran there before is forgotten."""

    def act(self, observations: Mapping[int, Vector]) -> Mapping[int, Decision]:
        """Returns one decision for each slot in `observations`, given its current observation (O,)."""

    def record(self, slot: int, action: Vector, reward: float) -> None:
        """Tells what the last decision for `slot` led to: the action (A,) that was executed and its reward."""


class RandomPolicy:
    """Uniform in the action space.

    Args:
        spaces: Of the environment: bounds of a continuous action, or number of choices.
        num_slots: Episodes at once.

    Raises:
        EvaluationError: The action space has no finite bounds.
    """

    def __init__(self, spaces: Spaces, num_slots: int) -> None:
        if not spaces.bounds_actions:
            raise EvaluationError(
                f"the environment's actions have action_low {spaces.action_low} and action_high {spaces.action_high}; "
                "expected finite bounds, which the row random draws between. Leave it out of evaluation.rows."
            )
        self.num_slots = num_slots
        self._spaces = spaces
        self._streams: dict[int, np.random.Generator] = {}

    def reset(self, slot: int, seed: int) -> None:
        """See `Policy`."""
        self._streams[slot] = stream(seed, "random policy")

    def act(self, observations: Mapping[int, Vector]) -> dict[int, Decision]:
        """See `Policy`."""
        return {slot: Decision(self._spaces.random_action(self._streams[slot])) for slot in observations}

    def record(self, slot: int, action: Vector, reward: float) -> None:
        """Does nothing: what happened does not matter to it."""


class NearestActions:
    """Acts as another policy does, with the nearest actions that the environment has, of which that policy is told.

    A network predicts 3.7 where an environment takes 3 or 4; what it sees as its own past must be what was executed.

    Args:
        policy: Decides.
        spaces: Of the environment.
    """

    def __init__(self, policy: Policy, spaces: Spaces) -> None:
        self.num_slots = policy.num_slots
        self._policy, self._spaces = policy, spaces

    def reset(self, slot: int, seed: int) -> None:
        """See `Policy`."""
        self._policy.reset(slot, seed)

    def act(self, observations: Mapping[int, Vector]) -> dict[int, Decision]:
        """See `Policy`."""
        decisions = self._policy.act(observations)
        return {
            slot: replace(decision, action=self._spaces.nearest_action(decision.action))
            for slot, decision in decisions.items()
        }

    def record(self, slot: int, action: Vector, reward: float) -> None:
        """See `Policy`."""
        self._policy.record(slot, action, reward)
