"""What one pass over the data found, as it stands in the manifest and in the report."""

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
HISTOGRAM_BINS = 30


class ReturnStatistics(BaseModel):
    """Undiscounted returns of one source's episodes.

    Attributes:
        source: Its name.
        episodes, steps: Taken from it.
        dropped_episodes: Left out because something of them is missing, or they hold NaN or infinite values.
        terminations, truncations: Episodes that the MDP ended, and that a limit ended.
        mean, deviation: Mean and standard deviation of the returns.
        quantiles: Returns at `QUANTILES`: least, 5 %, quartiles, 95 %, greatest.
        histogram_edges, histogram_counts: Equal widths between least and greatest.
        mean_length, max_length: Steps of an episode, on average and at most.
        divided_recordings: Recorded episodes of the data set that are several, because they have ends in their middle.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    episodes: int
    steps: int
    dropped_episodes: int
    terminations: int
    truncations: int
    mean: float
    deviation: float
    quantiles: tuple[float, ...]
    histogram_edges: tuple[float, ...]
    histogram_counts: tuple[int, ...]
    mean_length: float
    max_length: int
    divided_recordings: int = 0

    @classmethod
    def of(
        cls,
        source: str,
        returns: NDArray[np.float64],
        lengths: NDArray[np.int64],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        dropped: int,
        divided: int = 0,
    ) -> "ReturnStatistics":
        """Returns the statistics of one source's episodes, at least one."""
        low, high = float(returns.min()), float(returns.max())
        counts, edges = np.histogram(returns, bins=HISTOGRAM_BINS, range=(low, high if high > low else low + 1))
        return cls(
            source=source,
            episodes=len(returns),
            steps=int(lengths.sum()),
            dropped_episodes=dropped,
            terminations=int(terminated.sum()),
            truncations=int(truncated.sum()),
            mean=float(returns.mean()),
            deviation=float(returns.std()),
            quantiles=tuple(np.quantile(returns, QUANTILES).tolist()),
            histogram_edges=tuple(edges.tolist()),
            histogram_counts=tuple(counts.tolist()),
            mean_length=float(lengths.mean()),
            max_length=int(lengths.max()),
            divided_recordings=divided,
        )


class DimensionStatistics(BaseModel):
    """One column of the transitions.

    Attributes:
        name: For example `observation[0]`, `action[1]`, `reward`, `value`.
        minimum, maximum, mean, deviation: Over all steps.
        distinct: Different values, N + 1 or more counted as they are in the sample.
        bins: Bins that it uses.
        clipped: Values outside the outer edges; they have the outer bins' tokens.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    minimum: float
    maximum: float
    mean: float
    deviation: float
    distinct: int
    bins: int
    clipped: int


class Statistics(BaseModel):
    """The validation report.

    Attributes:
        returns: One entry per source.
        dimensions: One entry per column of the transitions.
        sampled_steps: Steps that edges and distinct values were computed from; all, or a sample of them.
        invalid: What was wrong with the dropped episodes, the first few.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    returns: tuple[ReturnStatistics, ...]
    dimensions: tuple[DimensionStatistics, ...]
    sampled_steps: int
    invalid: tuple[str, ...] = ()

    @property
    def few_values(self) -> tuple[str, ...]:
        """Names of the dimensions with fewer distinct values than the widest dimension has bins, and so fewer bins."""
        most = max(dimension.bins for dimension in self.dimensions)
        return tuple(one.name for one in self.dimensions if max(one.distinct, one.bins) < most)

    @property
    def mean_return(self) -> float:
        """The mean return over the episodes of all sources."""
        episodes = sum(entry.episodes for entry in self.returns)
        return sum(entry.mean * entry.episodes for entry in self.returns) / episodes

    @property
    def lowest_return(self) -> float:
        """The lowest return of an episode."""
        return min(entry.quantiles[0] for entry in self.returns)

    @property
    def best_return(self) -> float:
        """The highest return of an episode."""
        return max(entry.quantiles[-1] for entry in self.returns)

    @property
    def largest_return(self) -> float:
        """The largest absolute return of an episode, 1 where all are 0: what returns are divided by."""
        return max(max(abs(entry.quantiles[0]), abs(entry.quantiles[-1])) for entry in self.returns) or 1.0

    @property
    def longest_episode(self) -> int:
        """Steps of the longest episode."""
        return max(entry.max_length for entry in self.returns)

    def moments(self, observation_dim: int) -> tuple[list[float], list[float]]:
        """Returns mean and standard deviation of each observation column, as networks normalise by them.

        Over all steps of all episodes, without the observation that nobody acted on. The deviation has 1e-6 added, so
        that a column that never changes can be divided by it.

        Source: the released code of the Decision Transformer.
        """
        columns = self.dimensions[:observation_dim]
        return [column.mean for column in columns], [column.deviation + 1e-6 for column in columns]
