import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from pipeline.data.spaces import Spaces, select_columns
from pipeline.errors import ConfigError, DataError

BOX = Box(-1, 1, (2,), np.float32)
WHOLE = Box(0, 20, (2,), np.int32)
MAZE = Dict({"observation": Box(-9, 9, (4,)), "achieved_goal": Box(-9, 9, (2,)), "desired_goal": Box(-9, 9, (2,))})


def test_a_plain_box_keeps_its_columns() -> None:
    spaces = Spaces.of(Box(-1, 1, (3,)), BOX)
    assert (spaces.observation_dim, spaces.action_dim) == (3, 2)
    assert spaces.observation_names == ("observation[0]", "observation[1]", "observation[2]")
    assert spaces.flatten_observation(np.array([1.0, 2.0, 3.0], np.float32)).tolist() == [1, 2, 3]


def test_keys_are_flattened_in_the_order_given() -> None:
    spaces = Spaces.of(MAZE, BOX, keys=("observation", "desired_goal"))
    observation = {
        "observation": np.arange(4.0),
        "achieved_goal": np.full(2, 7.0),
        "desired_goal": np.array([8.0, 9.0]),
    }
    assert spaces.flatten_observation(observation).tolist() == [0, 1, 2, 3, 8, 9]
    assert spaces.observation_names[3:] == ("observation[3]", "desired_goal[0]", "desired_goal[1]")


def test_without_keys_all_are_taken_alphabetically() -> None:
    assert Spaces.of(MAZE, BOX).observation_keys == ("achieved_goal", "desired_goal", "observation")


def test_stacked_observations_give_the_same_columns_as_single_ones() -> None:
    spaces = Spaces.of(MAZE, BOX, columns=("0:3", "5"))
    stacked = {key: np.random.default_rng(0).normal(size=(6, *MAZE[key].shape)) for key in MAZE}
    rows = spaces.flatten_observations(stacked, 6)
    assert rows.shape == (6, 4)
    for row in range(6):
        single = spaces.flatten_observation({key: array[row] for key, array in stacked.items()})
        assert single.tolist() == rows[row].tolist()


def test_columns_can_be_dropped_and_keep_their_names() -> None:
    spaces = Spaces.of(Box(-1, 1, (105,)), BOX, columns=("0:27", "104"))
    assert spaces.observation_dim == 28
    assert spaces.observation_names[-1] == "observation[104]"


def test_flags_and_integers_become_numbers() -> None:
    spaces = Spaces.of(Dict({"a": MultiBinary(2), "b": Discrete(5), "c": MultiDiscrete([3, 4])}), BOX)
    observation = {"a": np.array([1, 0], np.int8), "b": np.int64(3), "c": np.array([2, 1])}
    assert spaces.flatten_observation(observation).tolist() == [1, 0, 3, 2, 1]
    assert Spaces.of(Box(0, 1, (2,), np.bool_), BOX).flatten_observation(np.array([True, False])).tolist() == [1, 0]


def test_an_image_is_flattened_row_by_row() -> None:
    spaces = Spaces.of(Box(0, 255, (2, 2, 3), np.uint8), BOX)
    assert spaces.flatten_observation(np.arange(12, dtype=np.uint8).reshape(2, 2, 3)).tolist() == list(range(12))


def test_a_discrete_action_is_one_column_counted_from_zero() -> None:
    spaces = Spaces.of(BOX, Discrete(4, start=2))
    assert (spaces.action_dim, spaces.action_choices) == (1, 4)
    assert spaces.flatten_actions(np.array([2, 5, 3]), 3).tolist() == [[0], [3], [1]]
    assert spaces.environment_action(np.array([3.0])) == 5
    assert isinstance(spaces.environment_action(np.array([3.0])), int)


def test_a_continuous_action_gets_the_environments_shape_and_type() -> None:
    action = Spaces.of(BOX, Box(-1, 1, (2, 2), np.float32)).environment_action(np.arange(4) / 4)
    assert action.dtype == np.float32
    assert action.tolist() == [[0, 0.25], [0.5, 0.75]]


def test_a_number_becomes_the_nearest_whole_action_within_bounds() -> None:
    spaces = Spaces.of(BOX, WHOLE)
    assert spaces.has_whole_actions
    for columns, expected in (((0.49, 19.51), [0, 20]), ((2.999, 3.001), [3, 3]), ((-7.0, 99.0), [0, 20])):
        action = spaces.environment_action(np.array(columns))
        assert (action.tolist(), action.dtype) == (expected, np.int32)
        assert spaces.nearest_action(np.array(columns)).tolist() == expected
    assert Spaces.of(BOX, Box(-9, 9, (2,), np.int8)).environment_action(np.array([-2.7, -0.4])).tolist() == [-3, 0]
    assert Spaces.of(BOX, Box(0, 1, (2,), np.bool_)).environment_action(np.array([0.3, 0.7])).tolist() == [False, True]


def test_a_continuous_action_keeps_its_fraction_and_ends_at_its_bounds() -> None:
    spaces = Spaces.of(BOX, BOX)
    assert not spaces.has_whole_actions
    assert spaces.environment_action(np.array([0.25, 1.5])).tolist() == [0.25, 1.0]
    assert Spaces.plain(3, 2).environment_action(np.array([0.25, 1.5])).tolist() == [0.25, 1.5]


def test_random_whole_actions_are_all_equally_likely() -> None:
    spaces, generator = Spaces.of(BOX, WHOLE), np.random.default_rng(0)
    drawn = np.array([spaces.random_action(generator) for _ in range(21 * 500)])
    assert drawn.shape == (21 * 500, 2)
    for column in drawn.T:
        # 500 of each are expected, give or take 22.
        assert np.bincount(column.astype(int), minlength=21).min() > 400
        assert set(column) == set(range(21))


@pytest.mark.parametrize("space", [WHOLE, Discrete(3)])
def test_no_number_is_no_whole_action(space: "gymnasium.Space") -> None:
    spaces = Spaces.of(BOX, space)
    with pytest.raises(DataError, match=r"an action is \[.*nan.*\]; expected numbers, which whole ones lie near to"):
        spaces.environment_action(np.full(spaces.action_dim, np.nan))


def test_whole_actions_without_bounds_have_none_but_those_of_their_type() -> None:
    endless = Box(-np.inf, np.inf, (2,), np.int32)
    assert (endless.low.tolist(), endless.is_bounded()) == ([-(2**31)] * 2, False)
    spaces = Spaces.of(BOX, endless)
    assert (spaces.action_low, spaces.action_high, spaces.bounds_actions) == (None, None, False)
    # As Minari gives it back.
    stored = Box(endless.low, endless.high, dtype=np.int32)
    assert stored.is_bounded()
    assert not Spaces.of(BOX, stored).bounds_actions
    assert spaces.column_states == (None,) * 4


def test_what_each_column_can_be_is_known() -> None:
    observation = Dict({"a": MultiBinary(2), "b": Discrete(5, start=2), "c": MultiDiscrete([3, 4]), "d": BOX})
    spaces = Spaces.of(observation, Discrete(4, start=7))
    two, ranges = range(2), [range(2, 7), range(3), range(4)]
    assert spaces.column_states == (two, two, *ranges, None, None, range(4))
    assert spaces.observation_low == (0, 0, 2, 0, 0, -1, -1)
    assert spaces.observation_high == (1, 1, 6, 2, 3, 1, 1)
    chosen = Spaces.of(observation, WHOLE, keys=("d", "b"), columns=("2", "0"))
    assert chosen.column_states == (range(2, 7), None, range(21), range(21))
    assert (chosen.observation_low, chosen.observation_high) == ((2, -1), (6, 1))
    assert Spaces.plain(2, 1).column_states == (None, None, None)


def test_a_choice_that_does_not_exist_is_refused() -> None:
    with pytest.raises(DataError, match="actions holds the choices 0 to 4; expected 0 to 3"):
        Spaces.of(BOX, Discrete(4)).flatten_actions(np.array([0, 4]), 2)


@pytest.mark.parametrize("space", [Text(5), Tuple((BOX, BOX)), Dict({"inner": Dict({"a": BOX})})])
def test_observations_that_are_not_supported_are_refused_by_name(space: "gymnasium.Space") -> None:
    with pytest.raises(DataError, match=r"space is (Text|Tuple|Dict).*; expected Box, Discrete, MultiBinary"):
        Spaces.of(space, BOX)


@pytest.mark.parametrize("space", [MultiDiscrete([2, 2]), MultiBinary(2), Dict({"a": BOX}), Tuple((BOX,))])
def test_actions_that_are_not_supported_are_refused_by_name(space: "gymnasium.Space") -> None:
    with pytest.raises(DataError, match=r"the action space is \w+.*; expected Box or Discrete"):
        Spaces.of(BOX, space)


@pytest.mark.parametrize("keys", [("nothing",), (), ("observation", "observation")])
def test_unknown_keys_are_refused_with_those_that_exist(keys: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"expected different keys of .*achieved_goal"):
        Spaces.of(MAZE, BOX, keys=keys)


def test_keys_of_a_plain_observation_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected null: the observation space is no Dict"):
        Spaces.of(BOX, BOX, keys=("observation",))


def test_columns_are_indices_and_ranges() -> None:
    assert select_columns(("2:4", "0", "5:"), 7) == (2, 3, 0, 5, 6)
    assert select_columns(None, 3) == (0, 1, 2)


@pytest.mark.parametrize("columns", [("0:9",), ("0", "0"), ("7",), ()])
def test_columns_that_do_not_exist_are_refused(columns: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="expected different columns of 0 to 6"):
        select_columns(columns, 7)


def test_columns_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="holds 'x:2'; expected an index such as '3' or a range"):
        select_columns(("x:2",), 7)


def test_an_observation_of_another_shape_is_refused() -> None:
    spaces = Spaces.of(Box(-1, 1, (3,)), BOX)
    with pytest.raises(DataError, match="expected 1 rows of 3 numbers"):
        spaces.flatten_observation(np.zeros(4))
    with pytest.raises(DataError, match="expected the keys"):
        Spaces.of(MAZE, BOX).flatten_observations({"observation": np.zeros((1, 4))}, 1)


def test_the_record_survives_its_json() -> None:
    spaces = Spaces.of(MAZE, Discrete(3), keys=("desired_goal",), columns=("1",))
    assert Spaces.model_validate_json(spaces.model_dump_json()) == spaces
    half_open = Spaces.of(Dict({"a": Discrete(3, start=1), "b": Box(0, np.inf, (1,))}), WHOLE)
    assert half_open.observation_high == (3, None)
    assert Spaces.model_validate_json(half_open.model_dump_json()) == half_open
