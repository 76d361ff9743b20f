import warnings

import numpy as np
import pytest
import scipy.stats

from pipeline.evaluation.scores import (
    ScoreReference,
    bootstrap_interval,
    d4rl_reference,
    interquartile_mean,
    two_level_interval,
    wilson_interval,
)


def test_the_random_return_scores_0_and_the_expert_return_100() -> None:
    reference = ScoreReference("by hand", random_return=-20.0, expert_return=180.0)
    assert [reference.normalized(value) for value in (-20.0, 80.0, 180.0)] == [0.0, 50.0, 100.0]


@pytest.mark.parametrize(
    ("environment", "random_return", "expert_return"),
    [
        ("Hopper-v5", -20.272305, 3234.3),
        ("HalfCheetah-v4", -280.178953, 12135.0),
        ("some_module:Walker2d-v5", 1.629008, 4592.3),
        ("Ant-v5", -325.6, 3879.7),
    ],
)
def test_d4rl_knows_its_four_environments_in_any_version(
    environment: str, random_return: float, expert_return: float
) -> None:
    assert d4rl_reference(environment) == ScoreReference("D4RL", random_return, expert_return)


def test_d4rl_knows_no_other_environment() -> None:
    assert d4rl_reference("HopperX-v5") is None
    assert d4rl_reference("InvertedPendulum-v5") is None


def test_the_interquartile_mean_ignores_the_outer_quarters() -> None:
    assert interquartile_mean(np.array([-1000.0, 1.0, 3.0, 1e9])) == 2.0
    assert interquartile_mean(np.array([5.0])) == 5.0


def test_the_bootstrap_interval_is_about_the_normal_one_for_many_normal_values() -> None:
    values = np.random.default_rng(0).normal(10.0, 2.0, size=400)
    low, high = bootstrap_interval(values) or (0.0, 0.0)
    half = 1.96 * values.std(ddof=1) / 20
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)


def test_the_bootstrap_interval_is_the_same_every_time() -> None:
    values = [1.0, 5.0, 2.0, 8.0]
    assert bootstrap_interval(values) == bootstrap_interval(values)


def test_the_bootstrap_interval_of_one_value_does_not_exist() -> None:
    assert bootstrap_interval([3.0]) is None
    assert bootstrap_interval([]) is None


def test_the_bootstrap_interval_of_equal_values_is_that_value() -> None:
    assert bootstrap_interval([200.0] * 5) == (200.0, 200.0)


def test_the_bootstrap_interval_is_defined_where_the_statistic_never_varies() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bootstrap_interval([200.0] * 19 + [180.0], interquartile_mean) == (200.0, 200.0)


def test_wilson_s_interval_of_8_in_10_is_the_textbook_s() -> None:
    # (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n) with p = 0.8, n = 10, z = 1.96
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_wilson_s_interval_stays_inside_0_and_1_and_needs_trials() -> None:
    assert (wilson_interval(0, 5) or (1.0, 1.0))[0] == 0.0
    assert (wilson_interval(5, 5) or (0.0, 0.0))[1] == 1.0
    assert wilson_interval(0, 0) is None


def test_the_interval_over_trainings_is_wider_than_that_over_all_their_episodes() -> None:
    generator = np.random.default_rng(1)
    groups = [generator.normal(mean, 1.0, size=20) for mean in (0.0, 10.0, 20.0)]
    low, high = two_level_interval(groups) or (0.0, 0.0)
    flat_low, flat_high = bootstrap_interval(np.concatenate(groups)) or (0.0, 0.0)
    assert high - low > 2 * (flat_high - flat_low)


def test_the_interval_over_one_training_is_that_of_its_episodes() -> None:
    values = np.random.default_rng(2).normal(size=50)
    assert two_level_interval([values]) == pytest.approx(bootstrap_interval(values), abs=0.02)


def test_trainings_without_spread_inside_give_the_bootstrap_of_their_means() -> None:
    means = np.array([1.0, 4.0, 6.0, 9.0])
    expected = scipy.stats.bootstrap(
        (means,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval
    assert two_level_interval([[mean] * 3 for mean in means]) == pytest.approx((expected.low, expected.high), abs=0.3)


def test_one_episode_of_one_training_has_no_interval() -> None:
    assert two_level_interval([[1.0]]) is None
    assert two_level_interval([[1.0], [2.0]]) is not None
