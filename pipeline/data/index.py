"""Which episodes are taken, in which order, and how they are shared out over blocks and splits.

Everything here follows from the sources, the configuration and the seed; the number of workers is nowhere in it.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.data.config import SourceConfig
from pipeline.data.sources import Listing, Source
from pipeline.errors import DataError
from pipeline.records import Episode
from pipeline.seeding import stream


@dataclass(frozen=True)
class EpisodeIndex:
    """Episodes of several sources, in order.

    Attributes:
        sources: (n,) int32, the place of each episode's source.
        ids: (n,) int64, its id there.
        lengths: (n,) int64, its steps.
        held_out: (n,) whether it belongs to the validation split.
    """

    sources: NDArray[np.int32]
    ids: NDArray[np.int64]
    lengths: NDArray[np.int64]
    held_out: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def steps(self) -> int:
        """Steps of all episodes."""
        return int(self.lengths.sum())

    def take(self, places: NDArray[np.int64] | NDArray[np.bool_] | slice) -> "EpisodeIndex":
        """Returns the episodes at `places`."""
        return EpisodeIndex(self.sources[places], self.ids[places], self.lengths[places], self.held_out[places])

    def blocks(self, steps: int) -> list[slice]:
        """Returns consecutive ranges of about `steps` steps each; an episode is never divided.

        A range ends with the episode that brings the steps since the last border to `steps` or above.
        """
        ends, since = [], 0
        for place, length in enumerate(self.lengths.tolist()):
            since += length
            if since >= steps:
                ends.append(place + 1)
                since = 0
        if len(self) and (not ends or ends[-1] < len(self)):
            ends.append(len(self))
        return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def build_index(sources: Sequence[tuple[Source, SourceConfig]], listings: Sequence[Listing], seed: int) -> EpisodeIndex:
    """Returns the episodes that the configurations choose, by source and then as listed, none of them held out.

    Args:
        sources: Each source with the configuration whose share and cap hold for it.
        listings: The episodes of each source.
        seed: Root seed of the draw.

    Raises:
        DataError: A source without episodes.
    """
    parts = []
    for number, ((source, config), listing) in enumerate(zip(sources, listings, strict=True)):
        if not len(listing.ids):
            raise DataError(f"{source.name} has 0 episodes; expected at least 1. Remove it from data.sources.")
        places = _chosen(listing.lengths, config, seed, source.name)
        parts.append((np.full(len(places), number, np.int32), listing.ids[places], listing.lengths[places]))
    if not parts:
        raise DataError("data.sources is empty; expected at least one data set.")
    columns = [np.concatenate([part[column] for part in parts]) for column in range(3)]
    return EpisodeIndex(columns[0], columns[1], columns[2], np.zeros(len(columns[0]), np.bool_))


def with_validation(index: EpisodeIndex, share: float, seed: int) -> EpisodeIndex:
    """Returns the index with `share` of its episodes held out, at least 1 if `share` is above 0, drawn by the seed.

    Raises:
        DataError: One episode alone, which cannot be divided.
    """
    count = max(1, round(share * len(index))) if share > 0 else 0
    if count >= len(index):
        raise DataError(
            f"data.validation_share is {share}: {count} of {len(index)} episodes are held out; expected at least 1 for "
            "training. Take more episodes, or set it to 0."
        )
    held_out = np.zeros(len(index), dtype=np.bool_)
    held_out[stream(seed, "validation split").permutation(len(index))[:count]] = True
    return replace(index, held_out=held_out)


def read_episodes(sources: Sequence[Source], index: EpisodeIndex) -> Iterator[tuple[int, Episode]]:
    """Yields the episodes of `index` in its order, each with the place of its source."""
    borders = np.flatnonzero(np.diff(index.sources)) + 1
    for places in np.split(np.arange(len(index)), borders):
        if len(places):
            number = int(index.sources[places[0]])
            for episode in sources[number].read(index.ids[places].tolist()):
                yield number, episode


def _chosen(lengths: NDArray[np.int64], config: SourceConfig, seed: int, name: str) -> NDArray[np.int64]:
    order = np.arange(len(lengths))
    if config.share == 1 and config.max_steps is None:
        return order
    order = stream(seed, "source selection", zlib.crc32(name.encode())).permutation(len(lengths))
    order = order[: max(1, round(config.share * len(order)))]
    if config.max_steps is not None:
        before = np.cumsum(lengths[order]) - lengths[order]
        order = order[before < config.max_steps]
    return np.sort(order)
