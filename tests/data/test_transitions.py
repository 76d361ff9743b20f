from dataclasses import replace

import numpy as np
import pytest

from pipeline.data.returns import RewardTreatment
from pipeline.data.transitions import check_shapes, complaint_of, transition_table
from pipeline.errors import DataError
from pipeline.records import Episode

EPISODE = Episode(
    source="some/data-v0",
    episode_id=17,
    observations=np.arange(8.0).reshape(4, 2),
    actions=np.array([[10.0], [20.0], [30.0]]),
    rewards=np.array([1.0, 2.0, 4.0]),
    terminated=True,
    truncated=False,
)
PENALISED = RewardTreatment(discount=0.5, termination_penalty=-100.0)


def test_a_row_is_observation_action_reward_and_value() -> None:
    assert transition_table(EPISODE, RewardTreatment(discount=0.5)).tolist() == [
        [0.0, 1.0, 10.0, 1.0, 4.0],
        [2.0, 3.0, 20.0, 2.0, 4.0],
        [4.0, 5.0, 30.0, 4.0, 0.0],
    ]


def test_the_termination_penalty_comes_before_values_are_computed() -> None:
    table = transition_table(EPISODE, PENALISED)
    assert table[:, 3].tolist() == [1.0, 2.0, -100.0]
    assert table[:, 4].tolist() == [2.0 - 50.0, -100.0, 0.0]


def test_a_truncated_episode_keeps_its_last_reward() -> None:
    cut = replace(EPISODE, terminated=False, truncated=True)
    assert transition_table(cut, PENALISED)[:, 3].tolist() == [1.0, 2.0, 4.0]


def test_as_many_observations_as_actions_are_refused() -> None:
    short = replace(EPISODE, observations=EPISODE.observations[:3])
    with pytest.raises(
        DataError, match=r"Episode 17 of some/data-v0 has 3 rewards, 3 actions and 3 observations; expected"
    ):
        check_shapes(short, 2, 1)


def test_a_missing_action_is_refused() -> None:
    with pytest.raises(DataError, match="has 3 rewards, 2 actions and 4 observations"):
        check_shapes(replace(EPISODE, actions=EPISODE.actions[:2]), 2, 1)


def test_other_dimensions_than_the_rest_are_refused() -> None:
    with pytest.raises(DataError, match=r"has observations of the shape \(2,\) and actions of \(1,\); expected \(3,\)"):
        check_shapes(EPISODE, 3, 1)


def test_an_episode_without_steps_is_found() -> None:
    empty = replace(
        EPISODE, observations=EPISODE.observations[:1], actions=EPISODE.actions[:0], rewards=EPISODE.rewards[:0]
    )
    assert complaint_of(empty) == "Episode 17 of some/data-v0 has 0 steps"


def test_a_defect_of_the_record_is_told_before_all_else() -> None:
    unusable = Episode.unusable("some/data-v0", 17, "has 3 rewards, but 3 observations")
    assert complaint_of(unusable) == "Episode 17 of some/data-v0 has 3 rewards, but 3 observations"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["observations", "actions", "rewards"])
def test_numbers_that_are_not_finite_are_found_and_placed(name: str, bad: float) -> None:
    array = getattr(EPISODE, name).copy()
    array[1] = bad
    found = complaint_of(replace(EPISODE, **{name: array}))
    assert found is not None
    assert f"NaN or infinite values in {name}, the first at step 1" in found


def test_finite_numbers_are_in_order() -> None:
    assert complaint_of(EPISODE) is None
