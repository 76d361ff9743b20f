import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError, DataError
from pipeline.references.prepare import reference_edges
from pipeline.tokens.fitting import (
    DimensionNames,
    fit_discretizer,
    quantile_bins,
    require_bins,
    require_states,
    state_bins,
    uniform_bins,
)


def test_without_ties_edges_are_the_quantiles_and_centers_the_middles() -> None:
    values = np.random.default_rng(0).permutation(101.0 * np.arange(101))
    edges, centers = quantile_bins(values, 10)
    assert np.allclose(edges, np.linspace(0, 10100, 11))
    assert np.allclose(centers, np.linspace(505, 9595, 10))


def test_a_constant_dimension_has_one_bin_that_decodes_to_the_constant() -> None:
    edges, centers = quantile_bins(np.full(50, 3.25), 100)
    assert edges.tolist() == [3.25, 3.25]
    assert centers.tolist() == [3.25]


def test_few_distinct_values_get_a_bin_each_that_decodes_exactly() -> None:
    edges, centers = quantile_bins(np.array([0.0] * 98 + [1.0, 5.0]), 100)
    assert edges.tolist() == [0.0, 0.5, 3.0, 5.0]
    assert centers.tolist() == [0.0, 1.0, 5.0]


def test_neighbouring_floats_are_told_apart() -> None:
    low = 1.0
    high = np.nextafter(low, 2.0)
    edges, _ = quantile_bins(np.array([low, high]), 4)
    assert low < edges[1] <= high


def test_a_value_that_fills_many_bins_gets_its_own_and_the_rest_share_the_others() -> None:
    rng = np.random.default_rng(1)
    values = np.concatenate([np.zeros(900), rng.uniform(1, 2, 100)])
    edges, centers = quantile_bins(values, 10)
    zero = np.searchsorted(edges, 0.0)
    assert centers[zero] == 0.0
    assert edges[zero + 1] == np.nextafter(0.0, 1.0)
    # Plain quantiles would leave the hundred others one bin; here they have all but the two that zero costs.
    assert (edges >= 1).sum() == 10 - 2 + 1
    assert len(centers) <= 10


def test_a_heavy_value_decodes_to_itself_and_not_to_its_neighbour() -> None:
    # The middle of 0.3 and the next number above it rounds to the latter.
    values = np.concatenate([np.full(500, 0.3), np.random.default_rng(5).uniform(0, 1, 500)])
    _, centers = quantile_bins(values, 10)
    assert 0.3 in centers


def test_actions_at_both_bounds_decode_to_the_bounds() -> None:
    values = np.clip(np.random.default_rng(2).normal(0, 1.5, 5000), -1, 1)
    _, centers = quantile_bins(values, 50)
    assert {-1.0, 1.0} <= set(centers)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.one_of(st.sampled_from([0.0, 1.0, -3.5]), st.floats(-1e3, 1e3)), min_size=1, max_size=80),
    st.integers(2, 12),
)
def test_edges_are_the_references_whatever_the_ties(values: list[float], num_bins: int) -> None:
    array = np.array(values) + 0.0  # -0.0 and 0.0 are one value
    edges, centers = quantile_bins(array, num_bins)
    assert edges.tolist() == reference_edges(array, num_bins).tolist()
    assert 1 <= len(centers) <= num_bins
    assert len(edges) == len(centers) + 1
    assert ((edges[:-1] <= centers) & (centers <= edges[1:])).all()
    # No token is left without a number: every value falls into a bin that holds it.
    tokens = np.searchsorted(edges[1:-1], array, side="right")
    assert (edges[tokens] <= array).all()
    assert (array <= edges[tokens + 1]).all()


def test_the_order_of_the_values_does_not_matter() -> None:
    values = np.random.default_rng(3).normal(size=1000)
    forward, backward = quantile_bins(values, 20), quantile_bins(values[::-1], 20)
    assert forward[0].tolist() == backward[0].tolist()


def test_uniform_bins_have_equal_widths() -> None:
    edges, centers = uniform_bins(-1.0, 1.0, 4)
    assert edges.tolist() == [-1, -0.5, 0, 0.5, 1]
    assert centers.tolist() == [-0.75, -0.25, 0.25, 0.75]


def test_a_constant_dimension_has_one_uniform_bin() -> None:
    assert [array.tolist() for array in uniform_bins(2.0, 2.0, 4)] == [[2.0, 2.0], [2.0]]


def test_a_counted_column_has_exactly_as_many_bins_as_states() -> None:
    edges, centers = state_bins(range(-1, 3))
    assert edges.tolist() == [-1.5, -0.5, 0.5, 1.5, 2.5]
    assert centers.tolist() == [-1, 0, 1, 2]
    assert np.searchsorted(edges[1:-1], [-1, 0, 1, 2], side="right").tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("states", "name"), [((range(9), range(4)), r"x\[0\]"), ((None, range(9)), r"action\[0\]")])
def test_more_states_than_bins_are_refused_by_name(states: tuple[range | None, ...], name: str) -> None:
    names = DimensionNames(("x[0]",), 1, states)
    require_bins(names, 9)
    message = rf"data.num_bins is 8; expected at least 9 \(.*\), a bin for each of the values that {name} can have, or "
    with pytest.raises(ConfigError, match=message):
        require_bins(names, 8)
    with pytest.raises(ConfigError, match=message):
        fit_discretizer(np.zeros((1, 4)), np.zeros(4), np.zeros(4), names, "uniform", 8)


def test_a_state_that_a_column_cannot_be_in_is_refused() -> None:
    names = DimensionNames(("x[0]",), 1, (range(2, 6), None))
    require_states(names, np.array([2.0, -9, 0, 0]), np.array([5.0, 9, 0, 0]))
    with pytest.raises(DataError, match=r"^x\[0\] goes from 2 to 6 in the data; expected 2 to 5, as its space says"):
        require_states(names, np.array([2.0, 0, 0, 0]), np.array([6.0, 0, 0, 0]))


def test_a_choice_that_never_occurs_still_has_its_bin() -> None:
    sample = np.column_stack([np.arange(6.0), [0, 0, 2, 2, 0, 2], np.zeros(6), np.zeros(6)])
    names = DimensionNames(("observation[0]",), 1, (None, range(4)))
    discretizer = fit_discretizer(sample, sample.min(axis=0), sample.max(axis=0), names, "uniform", 10)
    assert discretizer.layout.bins == (10, 4, 1, 1)
    assert discretizer.encode(sample)[:, 1].tolist() == [0, 0, 2, 2, 0, 2]


def test_extremes_outside_the_sample_widen_the_outer_bins() -> None:
    sample = np.random.default_rng(4).uniform(0, 1, (500, 4))
    names = DimensionNames(("observation[0]",), 1)
    discretizer = fit_discretizer(sample, np.full(4, -7.0), np.full(4, 9.0), names, "quantile", 10)
    assert discretizer.edges[:, 0].tolist() == [-7.0] * 4
    assert discretizer.edges[:, -1].tolist() == [9.0] * 4
    assert discretizer.layout.bins == (10,) * 4
