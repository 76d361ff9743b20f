"""Sums of future rewards."""

import numpy as np
from numpy.typing import NDArray


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


def with_termination_penalty(
    rewards: NDArray[np.float64], terminated: bool, penalty: float | None
) -> NDArray[np.float64]:
    """Returns the rewards with the last one replaced by `penalty` if the episode terminated and there is a penalty."""
    if penalty is None or not terminated:
        return rewards
    return np.concatenate([rewards[:-1], [penalty]])
