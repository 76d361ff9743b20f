import numba
import numpy as np
import pytest
import scipy.special
import torch

from pipeline.planning.compiled_stepper import _panels
from pipeline.planning.kernels import COLUMNS, ROWS, affine, gelu, layer_norm, softmax

TOLERANCE = {np.float32: 1e-6, np.float64: 1e-14}


def normal(dtype: type, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_error_functions_unit_is_that_of_scipy(dtype):
    x = np.concatenate([np.linspace(-12, 12, 10_001), [0.0, -0.0, 1e-20, -1e-20]]).astype(dtype)
    expected = x.astype(np.float64) * scipy.special.ndtr(x.astype(np.float64))
    gelu(x)
    np.testing.assert_allclose(x, expected, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 191])
def test_shares_are_those_of_scipy(dtype, size):
    scores = 20 * normal(dtype, size)
    expected = scipy.special.softmax(scores.astype(np.float64))
    softmax(scores)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=TOLERANCE[dtype])


def test_small_shares_are_as_exact_as_large_ones():
    """The others are held by their absolute error, which says nothing of shares near zero."""
    scores = np.linspace(-80, 0, 4001, dtype=np.float32)
    expected = scipy.special.softmax(scores.astype(np.float64))
    softmax(scores)
    np.testing.assert_allclose(scores, expected, rtol=2e-7)


@pytest.mark.parametrize("place", range(7))
def test_the_highest_score_is_found_wherever_it_stands(place):
    scores = np.zeros(7, dtype=np.float32)
    scores[place] = 1000.0
    softmax(scores)
    np.testing.assert_array_equal(scores.round(6), np.eye(7)[place])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_are_normalised_as_torch_does(dtype):
    x, scale, shift = 3 + normal(dtype, 5, 24), normal(dtype, 24), normal(dtype, 24)
    out = np.empty_like(x)
    layer_norm(x, scale, shift, out)
    expected = torch.nn.functional.layer_norm(torch.tensor(x), (24,), torch.tensor(scale), torch.tensor(shift))
    np.testing.assert_allclose(out, expected, rtol=0, atol=10 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("depth", "outputs"), [(1, 1), (6, 7), (24, 32), (60, 33), (128, 101), (512, 128)])
def test_a_product_in_panels_is_that_of_numpy(dtype, depth, outputs):
    x, matrix, bias = normal(dtype, ROWS, depth), normal(dtype, depth, outputs), normal(dtype, outputs)
    out = np.full((ROWS, outputs), np.nan, dtype)
    affine(x, _panels(matrix.T[None])[0], bias, out)
    expected = x.astype(np.float64) @ matrix.astype(np.float64) + bias
    np.testing.assert_allclose(out, expected, rtol=0, atol=30 * np.sqrt(depth) * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("depth", [8, 16, 48, 128, 512])
def test_a_row_is_multiplied_alike_in_any_place(dtype, depth):
    row, matrix = normal(dtype, depth), normal(dtype, depth + 1, 96)[1:]
    out = np.empty((ROWS, 96), dtype)
    affine(np.tile(row, (ROWS, 1)), _panels(matrix.T[None])[0], np.zeros(96, dtype), out)
    np.testing.assert_array_equal(out, np.tile(out[0], (ROWS, 1)))


def test_columns_are_multiplied_alike_in_any_panel():
    x, column = normal(np.float32, ROWS, 40), normal(np.float32, 41)[1:]
    out = np.empty((ROWS, 3 * COLUMNS), np.float32)
    affine(x, _panels(np.tile(column, (3 * COLUMNS, 1))[None])[0], np.zeros(3 * COLUMNS, np.float32), out)
    np.testing.assert_array_equal(out, np.tile(out[:, :1], 3 * COLUMNS))


def test_a_product_of_scattered_rows_is_refused():
    x = normal(np.float32, ROWS, 16)[:, ::2]
    with pytest.raises(numba.TypingError, match="multiply takes contiguous arrays"):
        affine(x, np.zeros((1, 8, COLUMNS), np.float32), np.zeros(4, np.float32), np.zeros((ROWS, 4), np.float32))
