"""Starts in episodes of high returns come at the share that is asked for, each as often as the others of its kind."""

from collections import Counter

import numpy as np
import pytest

from pipeline.data.table import EpisodeTable
from pipeline.errors import ConfigError
from pipeline.training.order import MixedStarts, ShuffledStarts, start_order


def episodes(lengths: list[int], returns: list[float]) -> EpisodeTable:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return EpisodeTable({}, offsets, np.ones(len(lengths), np.bool_), np.array(returns))


@pytest.mark.parametrize("share", [0.5, 0.25, 0.1, 0.7])
def test_the_share_holds_among_any_positions(share: float) -> None:
    order = MixedStarts(np.arange(3), np.arange(3, 20), share, seed=1)
    for first, count in ((0, 40), (7, 33), (12_345_678, 64)):
        high = int((order.at(first, count) < 3).sum())
        assert abs(high - share * count) <= 1


def test_every_start_of_a_kind_comes_once_in_each_of_its_passes() -> None:
    order = MixedStarts(np.arange(3), np.arange(3, 20), 0.5, seed=1)
    starts = Counter(order.at(0, 2 * 3 * 17).tolist())
    assert {starts[start] for start in range(3)} == {17}
    assert {starts[start] for start in range(3, 20)} == {3}


def test_it_can_be_entered_anywhere() -> None:
    order = MixedStarts(np.arange(5), np.arange(5, 40), 0.3, seed=2)
    whole = order.at(0, 500)
    for first, count in ((0, 1), (13, 7), (250, 250), (499, 1)):
        assert np.array_equal(order.at(first, count), whole[first : first + count])


def test_high_returns_are_those_above_the_middle() -> None:
    order = start_order(episodes([4, 2, 3, 5], [0.0, 10.0, 5.0, 5.1]), 0.5, seed=0)
    starts = order.at(0, 400)
    high = {*range(4, 6), *range(9, 14)}
    assert sum(start in high for start in starts.tolist()) == 200
    assert set(starts.tolist()) == set(range(14))


def test_without_a_share_the_order_is_that_of_all_starts() -> None:
    order = start_order(episodes([4, 2], [0.0, 1.0]), None, seed=3)
    assert np.array_equal(order.at(5, 20), ShuffledStarts(6, 3).at(5, 20))


def test_episodes_of_one_return_cannot_be_told_apart() -> None:
    with pytest.raises(ConfigError, match=r"high_return_share is 0.5, but all episodes .* have the return 2"):
        start_order(episodes([4, 2], [2.0, 2.0]), 0.5, seed=0)
