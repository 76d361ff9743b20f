import numpy as np
import pytest
import scipy.special
import torch

from pipeline.planning.kernels import LARGEST_PRODUCT, ROWS, affine, gelu, layer_norm, softmax

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


def test_a_product_in_panels_leaves_out_what_fills_the_last_one():
    x, matrix, bias = normal(np.float64, ROWS, 6), normal(np.float64, 6, 8), normal(np.float64, 7)
    panels = np.ascontiguousarray(matrix.reshape(6, 2, 4).swapaxes(0, 1))
    out = np.empty((ROWS, 7))
    affine(x, panels, bias, out)
    np.testing.assert_allclose(out, x @ matrix[:, :7] + bias, rtol=0, atol=1e-13)
    assert panels[0].size * ROWS <= LARGEST_PRODUCT
