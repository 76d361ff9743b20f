"""What is made of an episode's rewards: their treatment, and sums of those to come."""

import itertools

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict


class RewardTreatment(BaseModel):
    """What is done with the rewards of the data before anything learns from them.

    Attributes:
        discount: g of the value to go, above 0, at most 1.
        termination_penalty: Replaces the reward of a terminal last step in the tokens; None keeps it.
        delayed: Each episode's whole return is given at its last step, and nothing before.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    discount: float
    termination_penalty: float | None = None
    delayed: bool = False

    def rewards(self, rewards: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns (T,) the rewards as the data is taken to have them: delayed, or as they are."""
        if not self.delayed or not len(rewards):
            return rewards
        late = np.zeros(len(rewards))
        late[-1] = rewards.sum()
        return late

    def penalised(self, rewards: NDArray[np.float64], terminated: bool) -> NDArray[np.float64]:
        """Returns what `rewards` gives, with the last one replaced where the episode terminated and there is a penalty.

        Of these the tokens are made. Methods that learn from values see no penalty: a return that they are asked for is
        the environment's own.
        """
        kept = self.rewards(rewards)
        if self.termination_penalty is None or not terminated:
            return kept
        return np.concatenate([kept[:-1], [self.termination_penalty]])


def returns_to_go(rewards: NDArray[np.floating], offsets: NDArray[np.int64]) -> NDArray[np.float32]:
    """Returns (S,) the undiscounted sum of the rewards from each step on, the current one included.

    `R_t = sum_{k>=t} r_k`, added up in float64 whatever the rewards' type is.

    Args:
        rewards: (S,) of all episodes, one behind the other.
        offsets: (n + 1,) where each episode starts.

    Source: Chen et al. 2021, section 3.
    """
    sums = np.empty(len(rewards), np.float32)
    for start, end in itertools.pairwise(offsets):
        sums[start:end] = np.cumsum(rewards[start:end][::-1], dtype=np.float64)[::-1]
    return sums


def value_to_go(rewards: NDArray[np.float64], discount: float) -> NDArray[np.float64]:
    """Returns (T,) the discounted sum of the rewards after each step, to the end of the episode.

    `V_t = sum_{k>t} g^(k-t-1) r_k`: the current reward is not in it, and the last value is 0. A truncated episode gets
    no estimate of what would have come: the sum ends there as well.

    Args:
        rewards: (T,).
        discount: g, above 0, at most 1.

    Source: Janner et al. 2021, section 3.2, and the released code.
    """
    # Imported where it is needed: it takes most of a second, and training and evaluation only read what came of it.
    from scipy.signal import lfilter

    values = np.zeros(len(rewards))
    if len(rewards) > 1:
        # The filter is the recursion V_t = r_{t+1} + g V_{t+1}, run backwards in C.
        values[:-1] = np.asarray(lfilter([1.0], [1.0, -discount], rewards[:0:-1]))[::-1]
    return values
