"""Which window is trained on when: an endless, seeded shuffle that can be entered at any position.

The stream of windows is passes over all start indices, each pass another permutation. The permutation is computed,
not stored (a Feistel network over the index's bits, walked until the index falls inside the range): position 7 000 000
of pass 12 costs as much as position 0, needs no memory, and is the same on every worker and after every restart.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.data.table import EpisodeTable
from pipeline.errors import ConfigError
from pipeline.seeding import stream

_ROUNDS = 6


class StartOrder(Protocol):
    """The order in which start indices are visited."""

    def at(self, first: int, count: int) -> NDArray[np.int64]:
        """Returns the start indices at stream positions `first` to `first + count - 1`, (count,) int64."""
        ...


class ShuffledStarts:
    """The order in which the start indices 0 to `num_starts - 1` are visited, pass after pass.

    Every start index occurs exactly once in each pass, so every start index is equally likely, whatever the length of
    its episode.
    """

    def __init__(self, num_starts: int, seed: int) -> None:
        """Prepares the order.

        Args:
            num_starts: Number of start indices, at least 1: one for each transition of the split.
            seed: Root seed of the experiment.
        """
        if num_starts < 1:
            raise ValueError(f"num_starts is {num_starts}; expected at least 1 start index.")
        self.num_starts = num_starts
        self._seed = seed
        bits = max(2, (num_starts - 1).bit_length())
        self._half = np.uint64((bits + 1) // 2)
        self._mask = np.uint64((1 << int(self._half)) - 1)

    def at(self, first: int, count: int) -> NDArray[np.int64]:
        """Returns the start indices at stream positions `first` to `first + count - 1`, (count,) int64."""
        positions = np.arange(first, first + count, dtype=np.int64)
        passes, offsets = np.divmod(positions, self.num_starts)
        starts = np.empty(count, np.int64)
        for number in np.unique(passes):
            chosen = passes == number
            starts[chosen] = self._permuted(offsets[chosen].astype(np.uint64), int(number))
        return starts

    def _permuted(self, offsets: NDArray[np.uint64], number: int) -> NDArray[np.int64]:
        keys = stream(self._seed, "order of windows", number).integers(0, 2**63, _ROUNDS, dtype=np.uint64)
        values = self._feistel(offsets, keys)
        # Cycle walking: the network permutes a power of four that is at most about four times the range, so a value
        # outside needs a few more rounds through the network until it falls inside. Each orbit returns to the range.
        outside = values >= self.num_starts
        while outside.any():
            values[outside] = self._feistel(values[outside], keys)
            outside = values >= self.num_starts
        return values.astype(np.int64)

    def _feistel(self, values: NDArray[np.uint64], keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = values >> self._half, values & self._mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & self._mask)
        return (left << self._half) | right


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Returns `values` with their bits well mixed (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class MixedStarts:
    """Two groups of start indices, each in a shuffled order of its own, mixed evenly at a fixed share.

    Args:
        frequent: (n,) start indices of which there are `share` among any positions, as evenly as whole numbers allow.
        others: (m,) the rest.
        share: Above 0, below 1.
        seed: Root seed of the experiment.
    """

    def __init__(self, frequent: NDArray[np.int64], others: NDArray[np.int64], share: float, seed: int) -> None:
        self._groups, self._share = (others, frequent), share
        self._orders = [ShuffledStarts(len(group), seed) for group in self._groups]

    def at(self, first: int, count: int) -> NDArray[np.int64]:
        """See `StartOrder`."""
        positions = np.arange(first, first + count + 1, dtype=np.int64)
        # How many of the frequent ones come before each position.
        before = np.floor(positions * self._share).astype(np.int64)
        is_frequent = np.diff(before) == 1
        starts = np.empty(count, np.int64)
        for chosen, places, group, order in zip(
            (~is_frequent, is_frequent), (positions - before, before), self._groups, self._orders, strict=True
        ):
            wanted = places[:-1][chosen]
            if len(wanted):
                starts[chosen] = group[order.at(int(wanted[0]), len(wanted))]
        return starts


def start_order(episodes: EpisodeTable, high_return_share: float | None, seed: int) -> StartOrder:
    """Returns the order of the start indices of some episodes.

    Args:
        episodes: At least one.
        high_return_share: Share of starts in episodes whose return is above the middle between the lowest and the
            highest; None for every start equally likely.
        seed: Root seed of the experiment.

    Raises:
        ConfigError: A share is given, and all episodes have the same return.
    """
    if high_return_share is None:
        return ShuffledStarts(episodes.num_steps, seed)
    low, high = episodes.total_rewards.min(), episodes.total_rewards.max()
    if low == high:
        raise ConfigError(
            f"training.high_return_share is {high_return_share}, but all episodes that are learnt from have the return "
            f"{low:g}; expected different ones, or null."
        )
    is_high = np.repeat(episodes.total_rewards > (low + high) / 2, np.diff(episodes.offsets))
    return MixedStarts(np.flatnonzero(is_high), np.flatnonzero(~is_high), high_return_share, seed)
