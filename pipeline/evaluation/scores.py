"""What is reported of a method's episodes: means, intervals, normalised scores.

Every random number comes from a fixed seed, so that the same episodes always give the same interval.

Shape letters: E episodes, S training seeds.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from pipeline.seeding import stream

CONFIDENCE = 0.95
RESAMPLES = 10_000

Interval = tuple[float, float]


@dataclass(frozen=True)
class ScoreReference:
    """What 0 and 100 of a normalised score mean.

    Attributes:
        name: Where the two returns come from, printed beside every score.
        random_return: Return that scores 0.
        expert_return: Return that scores 100.
    """

    name: str
    random_return: float
    expert_return: float

    def normalized(self, total_reward: float) -> float:
        """Returns `100 (R - random) / (expert - random)`."""
        return 100 * (total_reward - self.random_return) / (self.expert_return - self.random_return)


# Source: the D4RL benchmark's reference returns (Fu et al. 2020), as the published tables use them.
_D4RL_RETURNS = {
    "hopper": (-20.272305, 3234.3),
    "halfcheetah": (-280.178953, 12135.0),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
}


def d4rl_reference(environment_id: str) -> ScoreReference | None:
    """Returns D4RL's reference of a Gymnasium environment such as `Hopper-v5`, None where D4RL has none.

    D4RL measured on the -v2 environments; later versions differ by up to a few points (Hopper-v5 falls cost 1.0 less).
    """
    family = re.sub(r"-v\d+$", "", environment_id.rpartition(":")[2]).lower()
    return ScoreReference("D4RL", *_D4RL_RETURNS[family]) if family in _D4RL_RETURNS else None


def interquartile_mean(values: NDArray[np.float64], axis: int = 0) -> Any:
    """Returns the mean of the middle half of at least one value along `axis` (Agarwal et al. 2021)."""
    return scipy.stats.trim_mean(values, 0.25, axis=axis)


def bootstrap_interval(values: ArrayLike, statistic: Callable[..., Any] = np.mean) -> Interval | None:
    """Returns the 95 % bootstrap interval of a statistic of `values` (E,).

    Percentiles of the resampled statistic: unlike the bias-corrected kinds they are defined for every sample, also
    where nearly all values are equal (an environment's highest return).

    Args:
        values: One return for each episode.
        statistic: Takes an array and `axis`, such as `numpy.mean` or `interquartile_mean`.

    Returns:
        Lower and upper end; None for fewer than two values, which say nothing of their spread; the value itself twice
        where all are equal.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size < 2:
        return None
    if np.all(array == array[0]):
        return float(array[0]), float(array[0])
    interval = scipy.stats.bootstrap(
        (array,),
        statistic,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        vectorized=True,
        rng=stream(0, "bootstrap"),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def wilson_interval(successes: int, trials: int) -> Interval | None:
    """Returns Wilson's 95 % interval of a success rate, None without trials."""
    if trials == 0:
        return None
    interval = scipy.stats.binomtest(successes, trials).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def two_level_interval(groups: Sequence[ArrayLike]) -> Interval | None:
    """Returns the 95 % interval of the mean over several trainings, each evaluated on some episodes.

    Both levels are resampled: trainings with replacement, then the episodes of each one drawn. Episodes of one
    training share its luck, so an interval over all episodes alone is too narrow. The mean is that of the trainings'
    means, each weighing the same.

    Args:
        groups: S arrays of returns, one for each training seed, of at least one episode.

    Returns:
        Lower and upper end (percentiles of the bootstrap); None where there are fewer than two values in all.
    """
    arrays = [np.asarray(group, dtype=np.float64) for group in groups]
    if sum(array.size for array in arrays) < 2:
        return None
    generator = stream(0, "two-level bootstrap")
    # Means of resampled episodes, for each training and each of its possible places in a resampled set of trainings.
    drawn = generator.integers(len(arrays), size=(RESAMPLES, len(arrays)))
    means = np.empty(drawn.shape)
    for i, array in enumerate(arrays):
        places = drawn == i
        means[places] = _resampled_means(array, int(places.sum()), generator)
    low, high = np.percentile(means.mean(axis=1), [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return float(low), float(high)


def _resampled_means(values: NDArray[np.float64], count: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Returns the means (count,) of `count` resamples of `values`."""
    drawn = values[generator.integers(values.size, size=(count, values.size))]
    return np.asarray(drawn.mean(axis=1), dtype=np.float64)
