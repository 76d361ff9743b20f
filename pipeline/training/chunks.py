"""The order of windows where the data does not fit into memory: shards shuffled, windows shuffled among a few shards.

Like `pipeline.training.order`, the stream of windows is passes over all start indices and can be entered anywhere; but
a pass goes through chunks of shards (in an order of its own), and windows mix only inside their chunk.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.seeding import stream


@dataclass(frozen=True)
class Chunk:
    """Some shards whose windows are shuffled together.

    Attributes:
        number: Of the pass.
        index: In the pass.
        shards: Indices of the shards, in the order to read them.
        first: Stream position of its first window.
        size: Its windows.
    """

    number: int
    index: int
    shards: tuple[int, ...]
    first: int
    size: int

    def starts(self, positions: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
        """Returns the start indices, in the chunk's shards read one behind the other, at stream `positions`."""
        order = stream(seed, "order in a chunk", self.number, self.index).permutation(self.size)
        return np.asarray(order[positions - self.first])


class ChunkOrder:
    """The chunks of every pass.

    Args:
        steps: Start indices of each shard.
        chunk_transitions: A chunk takes shards until it has at least this many start indices.
        seed: Root seed.
    """

    def __init__(self, steps: Sequence[int], chunk_transitions: int, seed: int) -> None:
        if sum(steps) < 1:
            raise ValueError("steps sums to 0; expected at least 1 start index.")
        self._steps, self._least, self._seed = steps, chunk_transitions, seed

    def between(self, first: int, last: int) -> Iterator[Chunk]:
        """Yields every chunk that holds a stream position of `first` to `last - 1`, in order."""
        number = first // sum(self._steps)
        while number * sum(self._steps) < last:
            yield from (
                chunk for chunk in self._of_pass(number) if chunk.first < last and chunk.first + chunk.size > first
            )
            number += 1

    def _of_pass(self, number: int) -> Iterator[Chunk]:
        position, index, shards, size = number * sum(self._steps), 0, [], 0
        order = stream(self._seed, "order of shards", number).permutation(len(self._steps)).tolist()
        for place, shard in enumerate(order):
            shards.append(shard)
            size += self._steps[shard]
            # The last shards of a pass may hold no episode of the split: no chunk is left over for them.
            if size >= self._least or (size and place == len(order) - 1):
                yield Chunk(number, index, tuple(shards), position, size)
                position, index, shards, size = position + size, index + 1, [], 0


def positions_of(chunk: Chunk, first: int, last: int, batch_size: int, share: slice) -> NDArray[np.int64]:
    """Returns the positions in `chunk`, of `first` to `last - 1`, that fall into `share` of their global batch."""
    positions = np.arange(max(first, chunk.first), min(last, chunk.first + chunk.size), dtype=np.int64)
    place = positions % batch_size
    return np.asarray(positions[(place >= share.start) & (place < share.stop)])
