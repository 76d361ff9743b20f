import numpy as np
import pytest

from pipeline.seeding import derived_seed, stream


def test_a_stream_depends_on_its_key_alone() -> None:
    first = stream(7, "episode", 3).random(4)
    stream(7, "episode", 2).random(100)
    assert np.array_equal(stream(7, "episode", 3).random(4), first)


@pytest.mark.parametrize("other", [(8, "episode", 3), (7, "plan", 3), (7, "episode", 4), (7, "episode", 3, 0)])
def test_another_key_gives_another_stream(other: tuple[int, str, int]) -> None:
    assert not np.array_equal(stream(*other).random(4), stream(7, "episode", 3).random(4))


def test_streams_of_neighbouring_indices_are_uncorrelated() -> None:
    draws = np.array([stream(0, "episode", index).standard_normal(2000) for index in range(20)])
    correlations = np.corrcoef(draws)[~np.eye(20, dtype=bool)]
    assert np.abs(correlations).max() < 0.1


def test_a_derived_seed_fits_every_library() -> None:
    seeds = [derived_seed(0, "reset", index) for index in range(1000)]
    assert len(set(seeds)) == 1000
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_a_stream_without_a_purpose_is_refused() -> None:
    with pytest.raises(ValueError, match="purpose is ''"):
        stream(0, "")
