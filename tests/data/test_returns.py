import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.returns import value_to_go, with_termination_penalty
from pipeline.references.prepare import reference_values


def test_golden_values_of_four_rewards() -> None:
    # V_0 = 2 + 0.5 * 4 + 0.25 * 8, V_1 = 4 + 0.5 * 8, V_2 = 8, V_3 = 0: the current reward is in none of them.
    assert value_to_go(np.array([1.0, 2.0, 4.0, 8.0]), 0.5).tolist() == [6.0, 8.0, 8.0, 0.0]


def test_a_constant_reward_of_one_has_the_geometric_sums() -> None:
    values = value_to_go(np.ones(1000), 0.99)
    assert values[0] == pytest.approx((1 - 0.99**999) / (1 - 0.99), rel=1e-12)
    # A public fork's broadcast gave 2.4e8 for such a sum over an episode; the right one is about 9e4.
    assert values.sum() == pytest.approx(sum((1 - 0.99**left) / 0.01 for left in range(1000)), rel=1e-10)


def test_without_discount_a_value_is_the_sum_of_what_follows() -> None:
    rewards = np.arange(10.0)
    assert value_to_go(rewards, 1.0).tolist() == [float(rewards[step + 1 :].sum()) for step in range(10)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=60), st.sampled_from([0.5, 0.99, 1.0]))
def test_values_are_the_references_bit_for_bit(rewards: list[float], discount: float) -> None:
    array = np.array(rewards)
    assert value_to_go(array, discount).tolist() == reference_values(array, discount).tolist()


def test_one_step_has_the_value_zero() -> None:
    assert value_to_go(np.array([5.0]), 0.99).tolist() == [0.0]


def test_the_penalty_replaces_the_reward_of_a_terminal_last_step_alone() -> None:
    rewards = np.array([1.0, 1.0, 1.0])
    assert with_termination_penalty(rewards, True, -100.0).tolist() == [1.0, 1.0, -100.0]
    assert with_termination_penalty(rewards, False, -100.0).tolist() == [1.0, 1.0, 1.0]
    assert with_termination_penalty(rewards, True, None).tolist() == [1.0, 1.0, 1.0]
    assert rewards.tolist() == [1.0, 1.0, 1.0]
