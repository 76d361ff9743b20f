import numpy as np
import pytest

from pipeline.training.chunks import ChunkOrder, positions_of
from pipeline.training.windows import share_of

STEPS = [7, 0, 12, 5, 30, 1]
TOTAL = sum(STEPS)


def stream_of(first: int, last: int, batch_size: int = 10, rank: int = 0, world: int = 1) -> list[tuple[int, int]]:
    """(shard, start in the shard) of each window that one worker takes from the stream."""
    found = []
    for chunk in ChunkOrder(STEPS, 15, seed=3).between(first, last):
        owners = [(shard, start) for shard in chunk.shards for start in range(STEPS[shard])]
        positions = positions_of(chunk, first, last, batch_size, share_of(batch_size, rank, world))
        found += [owners[start] for start in chunk.starts(positions, seed=3)]
    return found


def test_every_start_comes_once_in_each_pass() -> None:
    everything = [(shard, start) for shard, steps in enumerate(STEPS) for start in range(steps)]
    for number in range(3):
        assert sorted(stream_of(number * TOTAL, (number + 1) * TOTAL)) == everything


def test_passes_have_different_orders() -> None:
    assert stream_of(0, TOTAL) != stream_of(TOTAL, 2 * TOTAL)


def test_the_stream_can_be_entered_anywhere() -> None:
    whole = stream_of(0, 3 * TOTAL)
    for first in (1, 14, 15, 55, 100):
        assert stream_of(first, 3 * TOTAL) == whole[first:]


def test_workers_share_each_global_batch() -> None:
    whole = stream_of(0, 100)
    parts = [stream_of(0, 100, rank=rank, world=3) for rank in range(3)]
    for step in range(10):
        batch = [
            window for rank in range(3) for window in parts[rank][step * len(parts[rank]) // 10 :][: (3, 3, 4)[rank]]
        ]
        assert batch == whole[step * 10 : step * 10 + 10]


def test_a_chunk_has_whole_shards_and_enough_windows() -> None:
    chunks = list(ChunkOrder(STEPS, 15, seed=3).between(0, TOTAL))
    assert sorted(shard for chunk in chunks for shard in chunk.shards) == list(range(len(STEPS)))
    assert all(chunk.size >= 15 for chunk in chunks[:-1])
    assert [chunk.first for chunk in chunks] == np.cumsum([0, *(chunk.size for chunk in chunks[:-1])]).tolist()


def test_a_split_without_windows_is_refused() -> None:
    with pytest.raises(ValueError, match="steps sums to 0"):
        ChunkOrder([0, 0], 15, seed=3)


def test_no_chunk_is_empty() -> None:
    """Shards may hold no episode of a split, wherever the shuffle puts them."""
    for seed in range(20):
        chunks = list(ChunkOrder([10, 0, 10], 10, seed).between(0, 40))
        assert [chunk.size for chunk in chunks] == [10] * 4
