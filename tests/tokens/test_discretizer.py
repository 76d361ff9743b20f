import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.tokens.discretizer import Discretizer
from pipeline.tokens.layout import TransitionLayout

LAYOUT = TransitionLayout(1, 1, 4, (4, 2, 1, 4), ("observation[0]",))
EDGES = [[0, 1, 2, 3, 4], [0, 0.5, 1, 1, 1], [7, 7, 7, 7, 7], [-4, -2, 0, 2, 4]]
DISCRETIZER = Discretizer(LAYOUT, EDGES)


def test_a_value_on_an_edge_belongs_to_the_bin_above_it() -> None:
    tokens = DISCRETIZER.encode([[0.0, 0.0, 7.0, -4.0], [1.0, 0.5, 7.0, -2.0], [3.999, 1.0, 7.0, 1.999]])
    assert tokens.tolist() == [[0, 0, 0, 0], [1, 1, 0, 1], [3, 1, 0, 2]]


def test_values_outside_the_edges_go_to_the_outer_bins_and_are_counted() -> None:
    values = np.array([[-9.0, 2.0, 6.0, 4.0], [4.5, 1.0, 8.0, -4.1]])
    assert DISCRETIZER.encode(values).tolist() == [[0, 1, 0, 3], [3, 1, 0, 0]]
    assert DISCRETIZER.clipped(values).tolist() == [2, 1, 2, 1]


def test_the_largest_value_is_not_outside() -> None:
    assert DISCRETIZER.clipped(np.array([[4.0, 1.0, 7.0, 4.0]])).tolist() == [0, 0, 0, 0]


def test_a_token_decodes_to_the_middle_of_its_bin() -> None:
    assert DISCRETIZER.decode([[0, 0, 0, 0], [3, 1, 0, 2]]).tolist() == [[0.5, 0.25, 7, -3], [3.5, 0.75, 7, 1]]


def test_unused_bins_decode_to_the_last_used_one() -> None:
    assert DISCRETIZER.centers[1].tolist() == [0.25, 0.75, 0.75, 0.75]
    assert DISCRETIZER.decode([[0, 3, 3, 0]]).tolist() == [[0.5, 0.75, 7, -3]]


def test_centers_that_are_given_are_used() -> None:
    centers = np.array([[0.1, 1.1, 2.1, 3.1]] * 4)
    assert Discretizer(LAYOUT, EDGES, centers).decode_columns([2], slice(0, 1)).tolist() == [2.1]


def test_columns_alone_have_the_same_tokens_as_in_whole_transitions() -> None:
    values = np.random.default_rng(0).uniform(-5, 9, (6, 7, 4))
    tokens = DISCRETIZER.encode(values)
    assert np.array_equal(DISCRETIZER.encode_columns(values[..., 1:3], slice(1, 3)), tokens[..., 1:3])
    assert np.array_equal(
        DISCRETIZER.decode_columns(tokens[..., 1:3], slice(1, 3)), DISCRETIZER.decode(tokens)[..., 1:3]
    )


@pytest.mark.parametrize(("num_bins", "dtype"), [(2, np.uint8), (255, np.uint8), (256, np.uint16)])
def test_tokens_take_two_bytes_where_the_stop_token_would_not_fit_into_one(num_bins: int, dtype: type) -> None:
    layout = TransitionLayout.plain(1, 1, num_bins)
    discretizer = Discretizer(layout, np.tile(np.arange(num_bins + 1.0), (4, 1)))
    tokens = discretizer.encode([[num_bins - 0.5] * 4])
    assert tokens.dtype == dtype
    assert tokens.tolist() == [[num_bins - 1] * 4]
    assert np.array(layout.stop_token).astype(dtype) == layout.stop_token


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-4, 4), min_size=1, max_size=20))
def test_decoding_is_off_by_half_a_bin_at_most_and_encoding_again_gives_the_same_token(values: list[float]) -> None:
    table = np.array(values)[:, None]
    tokens = DISCRETIZER.encode_columns(table, slice(3, 4))
    decoded = DISCRETIZER.decode_columns(tokens, slice(3, 4))
    assert np.abs(decoded - table).max() <= 1.0
    assert np.array_equal(DISCRETIZER.encode_columns(decoded, slice(3, 4)), tokens)


def test_nan_has_no_token() -> None:
    with pytest.raises(DataError, match=r"a value of action is NaN; expected numbers"):
        DISCRETIZER.encode_columns([np.nan], slice(1, 2))


def test_the_stop_token_cannot_be_decoded() -> None:
    with pytest.raises(ValueError, match=r"expected 0 to 3. The stop token stands for no number"):
        DISCRETIZER.decode_columns([4], slice(0, 1))


def test_another_number_of_values_than_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 4"):
        DISCRETIZER.encode(np.zeros((5, 3)))


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        (np.zeros((3, 5)), "edges has the shape"),
        ([[0, 2, 1, 3, 4], *EDGES[1:]], "a decrease"),
        ([[0, 1, 2, np.nan, 4], *EDGES[1:]], "NaN"),
    ],
)
def test_edges_that_are_none_are_refused(edges: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Discretizer(LAYOUT, edges)


def test_edges_and_centers_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        DISCRETIZER.edges[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        DISCRETIZER.centers[0, 0] = 1
