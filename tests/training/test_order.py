import numpy as np
import pytest

from pipeline.training.order import ShuffledStarts


@pytest.mark.parametrize("num_starts", [1, 2, 3, 17, 64, 1000])
def test_every_start_comes_once_in_each_pass(num_starts: int) -> None:
    order = ShuffledStarts(num_starts, seed=5)
    for number in range(3):
        assert sorted(order.at(number * num_starts, num_starts)) == list(range(num_starts))


def test_the_order_can_be_entered_anywhere() -> None:
    order = ShuffledStarts(100, seed=5)
    whole = order.at(0, 350)
    assert (ShuffledStarts(100, seed=5).at(93, 200) == whole[93:293]).all()


def test_passes_and_seeds_have_different_orders() -> None:
    order = ShuffledStarts(100, seed=5)
    first = order.at(0, 100)
    assert (first != order.at(100, 100)).any()
    assert (first != ShuffledStarts(100, seed=6).at(0, 100)).any()


def test_each_start_is_equally_likely_at_each_position() -> None:
    """Chi-square of 8 starts at the first position of 4000 passes: of 7 degrees, above 24.3 once in a thousand."""
    order = ShuffledStarts(8, seed=1)
    first = np.array([order.at(number * 8, 1)[0] for number in range(4000)])
    counts = np.bincount(first, minlength=8)
    assert ((counts - 500) ** 2 / 500).sum() < 24.3


def test_neighbours_are_torn_apart() -> None:
    starts = ShuffledStarts(10_000, seed=2).at(0, 10_000)
    assert abs(np.corrcoef(starts[:-1], starts[1:])[0, 1]) < 0.05


def test_a_split_without_transitions_is_refused() -> None:
    with pytest.raises(ValueError, match="num_starts is 0; expected at least 1"):
        ShuffledStarts(0, seed=0)
