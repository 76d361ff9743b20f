import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.data.config import DataConfig
from pipeline.data.returns import RewardTreatment, returns_to_go, value_to_go
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


PUBLIC_REWARDS = [2.136, 0.947, 1.593, -0.759, 2.622, 0.582, 2.129, 2.845, 1.254]
PUBLIC_SUMS = [13.349, 11.213, 10.266, 8.673, 9.432, 6.81, 6.228, 4.099, 1.254]
"""What the released code of the Decision Transformer makes of the rewards (`discount_cumsum` with gamma 1)."""


def test_returns_to_go_are_those_of_the_released_code() -> None:
    """The current reward is in them, and in the last one it is alone."""
    found = returns_to_go(np.array(PUBLIC_REWARDS), np.array([0, 9]))
    assert found.dtype == np.float32
    assert found.tolist() == np.array(PUBLIC_SUMS, np.float32).tolist()


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30), max_size=5),
    st.sampled_from([np.float32, np.float64]),
)
def test_returns_to_go_add_up_what_is_left_of_each_episode_alone(episodes: list[list[float]], dtype: type) -> None:
    offsets = np.cumsum([0, *(len(rewards) for rewards in episodes)])
    found = returns_to_go(np.array(list(itertools.chain(*episodes)), dtype), offsets)
    expected = [sum(rewards[step:]) for rewards in episodes for step in range(len(rewards))]
    assert found == pytest.approx(np.array(expected), rel=1e-6, abs=1e-5)


@pytest.mark.parametrize(
    ("rewards", "first"),
    [
        (np.full(1000, 0.1, np.float32), 100.0),
        (np.append(np.ones(999, np.float32), np.float32(2**25)), 2.0**25 + 999),
        (np.ones(300, np.uint8), 300.0),
    ],
)
def test_returns_to_go_neither_drift_nor_wrap(rewards: np.ndarray, first: float) -> None:
    """Of float32 a sum from the end would lose each 1 beside 2^25 and drift by 1e-3 in 1000 steps."""
    assert returns_to_go(rewards, np.array([0, len(rewards)]))[0] == np.float32(first)


def treated(**how: float | bool) -> RewardTreatment:
    return RewardTreatment.model_validate({"discount": 0.99, **how})


@pytest.mark.parametrize(
    ("treatment", "terminated", "kept", "penalised"),
    [
        (treated(), True, [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]),
        (treated(termination_penalty=-100.0), True, [1.0, 2.0, 3.0], [1.0, 2.0, -100.0]),
        (treated(termination_penalty=-100.0), False, [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]),
        (treated(delayed=True), True, [0.0, 0.0, 6.0], [0.0, 0.0, 6.0]),
        (treated(delayed=True), False, [0.0, 0.0, 6.0], [0.0, 0.0, 6.0]),
    ],
)
def test_the_penalty_replaces_a_terminal_last_reward_alone_and_a_delay_gives_all_of_them_there(
    treatment: RewardTreatment, terminated: bool, kept: list[float], penalised: list[float]
) -> None:
    rewards = np.array([1.0, 2.0, 3.0])
    assert treatment.rewards(rewards).tolist() == kept
    assert treatment.penalised(rewards, terminated).tolist() == penalised
    assert rewards.tolist() == [1.0, 2.0, 3.0]


def test_a_penalty_and_a_delay_exclude_each_other() -> None:
    told = r"data\.termination_penalty is -100\.0 and data\.delay_rewards is true; expected one or the other"
    with pytest.raises(ValidationError, match=told):
        DataConfig(termination_penalty=-100.0, delay_rewards=True)
    assert DataConfig(delay_rewards=True, discount=0.9).reward_treatment == treated(delayed=True, discount=0.9)
    assert DataConfig(termination_penalty=-1.0).reward_treatment == treated(termination_penalty=-1.0)
