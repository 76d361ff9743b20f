import numpy as np
import pytest
import torch

from pipeline.planning.config import PlanningConfig
from pipeline.planning.sampling import estimates, greedy_bins, sampled_bins
from pipeline.references.planner import sampled_bin

ALMOST_ONE = 1 - 2.0**-24
QUARTERS = torch.log(torch.tensor([0.1, 0.2, 0.3, 0.4, 9.0]))
LOGITS = torch.log(torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64))
CENTERS = torch.tensor([-1.0, 2.0, 5.0], dtype=torch.float64)


def picked(uniform: float, k: int | None = None, cdf: float | None = None, logits: torch.Tensor = QUARTERS) -> int:
    return int(sampled_bins(logits, torch.tensor(uniform), 1.0, k, cdf))


@pytest.mark.parametrize(("uniform", "expected"), [(0.0, 0), (0.09, 0), (0.11, 1), (0.29, 1), (0.31, 2), (0.61, 3)])
def test_a_uniform_picks_the_bin_whose_share_it_falls_into(uniform, expected):
    assert picked(uniform) == expected


def test_the_last_bin_and_never_the_stop_token_is_picked_by_the_greatest_uniform():
    assert picked(ALMOST_ONE) == 3


@pytest.mark.parametrize(("k", "least"), [(1, 3), (2, 2), (3, 1), (4, 0), (9, 0)])
def test_k_keeps_the_k_most_likely_bins(k, least):
    assert {picked(uniform, k=k) for uniform in np.arange(0, 1, 0.01)} == set(range(least, 4))


# Cumulative from the least likely: 0.1, 0.3, 0.6, 1.0. Those below `cdf` go.
@pytest.mark.parametrize(("cdf", "least"), [(0.0, 0), (0.05, 0), (0.2, 1), (0.5, 2), (0.7, 3), (0.99, 3)])
def test_cdf_drops_the_least_likely_bins_that_sum_to_less(cdf, least):
    assert {picked(uniform, cdf=cdf) for uniform in np.arange(0, 1, 0.01)} == set(range(least, 4))


def test_the_kept_bins_share_the_probability_in_their_old_proportion():
    # 0.3 and 0.4 are left: the border lies at 3/7.
    assert (picked(0.42, k=2), picked(0.43, k=2)) == (2, 3)


def test_equally_likely_bins_are_kept_together():
    logits = torch.tensor([1.0, 2.0, 2.0, 2.0, 0.0])
    assert {picked(uniform, k=2, logits=logits) for uniform in np.arange(0, 1, 0.01)} == {1, 2, 3}
    assert {picked(uniform, cdf=0.5, logits=logits) for uniform in np.arange(0, 1, 0.01)} == {1, 2, 3}


def test_a_low_temperature_is_greedy_and_a_high_one_uniform():
    uniforms = torch.arange(0.005, 1, 0.01)
    logits = QUARTERS.expand(100, -1)
    assert sampled_bins(logits, uniforms, 0.01, None, None).unique().tolist() == [3]
    counts = sampled_bins(logits, uniforms, 1e6, None, None).bincount()
    assert counts.tolist() == [25, 25, 25, 25]


def test_a_bin_that_the_dimension_lacks_is_never_picked():
    logits = torch.tensor([0.0, -torch.inf, 0.0, -torch.inf, 5.0])
    assert {picked(uniform, logits=logits) for uniform in (0.0, 0.3, 0.6, ALMOST_ONE)} == {0, 2}


def test_greedy_takes_the_first_of_equals_and_never_the_stop_token():
    assert int(greedy_bins(torch.tensor([1.0, 2.0, 2.0, 3.0]))) == 1


def test_one_row_of_logits_serves_many_uniforms():
    uniforms = torch.tensor([[0.05, 0.25], [0.5, 0.9]])
    assert sampled_bins(QUARTERS[None, None], uniforms, 1.0, None, None).tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(("k", "cdf"), [(None, None), (4, None), (None, 0.6), (10, 0.3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_random_logits_give_what_the_reference_picks(k, cdf, dtype):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(300, 31, generator=generator, dtype=dtype)
    uniforms = torch.rand(300, generator=generator)
    expected = [
        sampled_bin(row.double().numpy(), float(u), 0.8, k, cdf) for row, u in zip(logits, uniforms, strict=True)
    ]
    assert sampled_bins(logits, uniforms, 0.8, k, cdf).tolist() == expected


def test_frequencies_are_the_probabilities():
    uniforms = torch.from_numpy(np.random.default_rng(0).random(40_000))
    shares = sampled_bins(QUARTERS.expand(40_000, -1), uniforms, 1.0, None, None).bincount() / 40_000
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.2, 0.3, 0.4]), atol=0.01, rtol=0)


def test_the_mean_leaves_the_stop_token_out_and_does_not_renormalise():
    assert float(estimates(LOGITS, CENTERS, PlanningConfig())) == pytest.approx(-0.1 + 0.4 + 1.5)


@pytest.mark.parametrize(("percentile", "center"), [(0.0, -1.0), (0.05, -1.0), (0.25, 2.0), (0.5, 5.0), (0.9, 5.0)])
def test_a_percentile_is_the_center_of_the_first_bin_that_reaches_it(percentile, center):
    config = PlanningConfig(value_estimate="percentile", value_percentile=percentile)
    assert float(estimates(LOGITS, CENTERS, config)) == center


def test_estimates_ignore_the_temperature():
    assert float(estimates(LOGITS, CENTERS, PlanningConfig(temperature=9.0))) == pytest.approx(1.8)
