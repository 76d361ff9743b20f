import numpy as np
import pytest

from pipeline.collection.chunks import Chunks

STEPS = 50
"""Most steps of an episode: chunks of 25 episodes, so of 1250 steps at most."""


def given(chunks: Chunks) -> list[int]:
    """All chunks that are to be given away now."""
    numbers = []
    while (chunk := chunks.next()) is not None:
        numbers.append(chunk)
    return numbers


@pytest.mark.parametrize(("steps", "max_steps", "missing"), [(20_000, 1000, 4), (5000, STEPS, 4), (5001, STEPS, 5)])
def test_before_the_first_chunk_is_there_all_are_taken_to_be_as_long_as_can_be(
    steps: int, max_steps: int, missing: int
) -> None:
    chunks = Chunks(steps, max_steps)
    assert chunks.missing == missing
    assert given(chunks) == list(range(missing))


def test_no_chunk_beyond_the_expected_need_is_given_away_while_one_does_not_come() -> None:
    chunks = Chunks(5000, STEPS)
    assert given(chunks) == [0, 1, 2, 3]
    for chunk in (1, 2, 3):
        chunks.add(chunk, [10] * 25)
    assert given(chunks) == list(range(4, 20))
    for chunk in range(4, 20):
        chunks.add(chunk, [10] * 25)
    assert given(chunks) == []
    assert chunks.missing == 1


def test_chunks_that_an_earlier_run_left_are_not_given_away_and_gaps_are() -> None:
    chunks = Chunks(750, STEPS)
    chunks.add(0, [10] * 25)
    chunks.add(3, [30] * 25)
    assert given(chunks) == [1], "at 500 steps a chunk, two of them are enough"
    chunks.add(1, [1] * 25)
    assert given(chunks) == [2]
    assert chunks.missing == 1, "the fourth brings 750 steps"


def test_a_collection_is_complete_when_its_first_chunks_have_enough_steps() -> None:
    generator = np.random.default_rng(0)
    for steps in (1, 40, 977, 6000):
        chunks, waiting = Chunks(steps, STEPS), list[int]()
        while chunks.missing:
            waiting += given(chunks)
            chunk = waiting.pop(int(generator.integers(len(waiting))))
            chunks.add(chunk, generator.integers(1, STEPS + 1, size=25).tolist())
        totals = [sum(lengths) for lengths in chunks.lengths()]
        assert sum(totals) >= steps > sum(totals[:-1])


def test_the_time_that_is_left_is_known_once_a_chunk_was_measured() -> None:
    chunks = Chunks(5000, STEPS)
    chunks.add(0, [50] * 25)
    assert chunks.seconds_left == 0
    chunks.add(1, [50] * 25, seconds=2.0)
    assert (chunks.missing, chunks.seconds_left) == (2, 4.0)
