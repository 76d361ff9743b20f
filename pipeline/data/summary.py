"""What one pass over a block of episodes leaves: mergeable facts, from which bin edges and statistics follow."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.data.returns import RewardTreatment
from pipeline.data.spaces import Spaces
from pipeline.data.transitions import check_shapes, complaint_of, transition_table
from pipeline.errors import DataError
from pipeline.records import Episode
from pipeline.seeding import stream


@dataclass(frozen=True)
class SummarySettings:
    """What a summary depends on beside the episodes.

    Attributes:
        spaces: The columns that every episode must have.
        treatment: What is done with the rewards.
        drop_invalid: Leave out and report episodes of which something is missing, or with NaN or infinite values; else
            they are refused.
        sample_share: Share of steps kept for the quantiles; 1 keeps all, and the quantiles are exact.
        seed: Root seed of the sample.
    """

    spaces: Spaces
    treatment: RewardTreatment
    drop_invalid: bool
    sample_share: float
    seed: int


@dataclass(frozen=True)
class Summary:
    """Facts of some episodes. Shape letters: n episodes, S sampled steps, D columns of a transition.

    Attributes:
        sources, ids, lengths, returns, terminated, truncated: (n,) one entry per valid episode, in order.
        invalid_sources, invalid_ids: One entry per dropped episode.
        complaints: What was wrong with each dropped episode.
        lowest, highest: (D,) extremes over all steps.
        mean: (D,) over all steps.
        squares: (D,) sum of squared differences from the mean.
        sample: (S, D) transitions kept for the quantiles.
    """

    sources: NDArray[np.int32]
    ids: NDArray[np.int64]
    lengths: NDArray[np.int64]
    returns: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    invalid_sources: NDArray[np.int32]
    invalid_ids: NDArray[np.int64]
    complaints: NDArray[np.str_]
    lowest: NDArray[np.float64]
    highest: NDArray[np.float64]
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]
    sample: NDArray[np.float64]

    def without_sample(self) -> "Summary":
        """Returns the summary with an empty sample, which is all of its size."""
        return replace(self, sample=self.sample[:0])

    def to_bytes(self) -> bytes:
        """Returns the summary as an uncompressed `.npz`."""
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **vars(self))
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Summary":
        """Returns the summary that `to_bytes` wrote."""
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return cls(**arrays)


def summarize_episodes(episodes: Iterable[tuple[int, Episode]], settings: SummarySettings) -> Summary:
    """Returns the summary of episodes, each given with the place of its source.

    Raises:
        DataError: An episode of other shapes; or one of which something is missing, or with NaN or infinite values,
            unless these are dropped.
    """
    spaces = settings.spaces
    facts: list[tuple[int, int, int, float, bool, bool]] = []
    invalid: list[tuple[int, int, str]] = []
    moments = _Moments(spaces.observation_dim + spaces.action_dim + 2)
    samples = [np.empty((0, len(moments.mean)))]
    for source, episode in episodes:
        if episode.num_steps:
            check_shapes(episode, spaces.observation_dim, spaces.action_dim)
        complaint = complaint_of(episode)
        if complaint is not None:
            if not settings.drop_invalid:
                raise DataError(
                    f"{complaint}; expected numbers, of at least 1 step, and one observation more than steps. Set "
                    "data.on_invalid to drop to leave such episodes out."
                )
            invalid.append((source, episode.episode_id, complaint))
            continue
        table = transition_table(episode, settings.treatment)
        moments.add(table)
        samples.append(_sampled(table, settings, source, episode.episode_id))
        total = float(episode.rewards.sum())
        facts.append((source, episode.episode_id, episode.num_steps, total, episode.terminated, episode.truncated))
    columns = list(zip(*facts, strict=True)) or [()] * 6
    dropped = list(zip(*invalid, strict=True)) or [()] * 3
    return Summary(
        sources=np.array(columns[0], np.int32),
        ids=np.array(columns[1], np.int64),
        lengths=np.array(columns[2], np.int64),
        returns=np.array(columns[3], np.float64),
        terminated=np.array(columns[4], np.bool_),
        truncated=np.array(columns[5], np.bool_),
        invalid_sources=np.array(dropped[0], np.int32),
        invalid_ids=np.array(dropped[1], np.int64),
        complaints=np.array(dropped[2], np.str_),
        lowest=moments.lowest,
        highest=moments.highest,
        mean=moments.mean,
        squares=moments.squares,
        sample=np.concatenate(samples),
    )


def merge(summaries: Sequence[Summary]) -> Summary:
    """Returns the summary of all episodes.

    Sums of floats depend on their order, so the caller gives the blocks in the order of the data, never in the order in
    which workers finished.
    """
    moments = _Moments(len(summaries[0].mean))
    for part in summaries:
        moments.merge(int(part.lengths.sum()), part.lowest, part.highest, part.mean, part.squares)
    columns = np.empty((sum(len(part.sample) for part in summaries), len(moments.mean)), order="F")
    merged = {
        "lowest": moments.lowest,
        "highest": moments.highest,
        "mean": moments.mean,
        "squares": moments.squares,
        # Column by column in memory, as its sorting wants it; the sample is most of the driver's memory.
        "sample": np.concatenate([part.sample for part in summaries], out=columns),
    }
    rest = {
        name: np.concatenate([getattr(part, name) for part in summaries])
        for name in vars(summaries[0])
        if name not in merged
    }
    return Summary(**merged, **rest)


class _Moments:
    """Running extremes, mean and sum of squared differences of the columns of tables."""

    def __init__(self, columns: int) -> None:
        self.count = 0
        self.lowest = np.full(columns, np.inf)
        self.highest = np.full(columns, -np.inf)
        self.mean = np.zeros(columns)
        self.squares = np.zeros(columns)

    def add(self, table: NDArray[np.float64]) -> None:
        mean = table.mean(axis=0)
        squares = np.square(table - mean).sum(axis=0)
        self.merge(len(table), table.min(axis=0), table.max(axis=0), mean, squares)

    def merge(
        self,
        count: int,
        lowest: NDArray[np.float64],
        highest: NDArray[np.float64],
        mean: NDArray[np.float64],
        squares: NDArray[np.float64],
    ) -> None:
        """Adds another part's moments.

        Source: Chan, Golub and LeVeque 1979, the pairwise update of the variance.
        """
        if not count:
            return
        total = self.count + count
        difference = mean - self.mean
        self.mean = self.mean + difference * (count / total)
        self.squares = self.squares + squares + np.square(difference) * (self.count * count / total)
        self.lowest, self.highest = np.minimum(self.lowest, lowest), np.maximum(self.highest, highest)
        self.count = total


def _sampled(
    table: NDArray[np.float64], settings: SummarySettings, source: int, episode_id: int
) -> NDArray[np.float64]:
    """Returns the steps kept for the quantiles: each one by its own draw, whatever block it stands in."""
    if settings.sample_share >= 1:
        return table
    draws = stream(settings.seed, "quantile sample", source, episode_id).random(len(table))
    return table[draws < settings.sample_share]
