import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray

from pipeline.collection.config import BehaviourConfig
from pipeline.collection.episodes import Collector
from pipeline.command_line import parse_experiment
from pipeline.environments import EnvironmentConfig, make_environment
from pipeline.errors import EnvironmentSetupError
from pipeline.key_to_door import CELLS, DOOR_ROOM, EMPTY_ROOM, KEY_ROOM, MOVES, PHASE_STEPS, SIDE, UNSEEN, KeyToDoor
from tests.conftest import REPOSITORY

UP, RIGHT, DOWN, LEFT = range(4)
GAME_STEPS = sum(PHASE_STEPS)

Observation = NDArray[np.int64]
Player = Callable[[Observation], int]
Step = tuple[Observation, float, bool, bool, dict[str, Any]]


def played(player: Player, seed: int) -> list[Step]:
    """Returns what the steps of an episode gave, the observation of the reset first."""
    environment = KeyToDoor()
    observation, info = environment.reset(seed=seed)
    steps: list[Step] = [(observation, 0.0, False, False, info)]
    while not (steps[-1][2] or steps[-1][3]):
        steps.append(environment.step(player(steps[-1][0])))
    return steps


def scripted(actions: Sequence[int]) -> Player:
    left: Iterator[int] = iter(actions)
    return lambda _: next(left)


def towards(cell: int, goal: int) -> int:
    """Returns an action that comes nearer to the goal; a step down, where players start, if there is none."""
    (row, column), (goal_row, goal_column) = divmod(cell, SIDE), divmod(goal, SIDE)
    if goal == UNSEEN or row == goal_row == SIDE - 1:
        return DOWN
    if row > goal_row:
        return UP
    return RIGHT if column < goal_column else LEFT


def keen(observation: Observation) -> int:
    cell, key, door, _ = observation.tolist()
    return towards(cell, door if key == UNSEEN else key)


def hasty(observation: Observation) -> int:
    cell, _, door, _ = observation.tolist()
    return towards(cell, door)


def chance_of_reaching(steps: int) -> float:
    """Returns how likely random moves reach a random cell of the top row from one of the bottom row, summed exactly."""
    total = 0.0
    for start in range(CELLS - SIDE, CELLS):
        for goal in range(SIDE):
            share = np.zeros((SIDE, SIDE))
            share.flat[start] = 1.0
            for _ in range(steps):
                moved = np.zeros_like(share)
                for (row, column), weight in np.ndenumerate(share):
                    if row * SIDE + column == goal:
                        moved[row, column] += weight
                        continue
                    for down, right in MOVES:
                        there = np.clip((row + down, column + right), 0, SIDE - 1)
                        moved[there[0], there[1]] += weight / len(MOVES)
                share = moved
            total += share.flat[goal]
    return total / SIDE**2


def test_gymnasium_s_own_checker_has_nothing_to_say() -> None:
    environment = gymnasium.make("pipeline.key_to_door:KeyToDoor-v0", render_mode="rgb_array").unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(environment)


def test_the_spaces_are_cell_key_door_and_room_and_four_moves() -> None:
    assert KeyToDoor().observation_space == gymnasium.spaces.MultiDiscrete([9, 10, 10, 3])
    assert KeyToDoor().action_space == gymnasium.spaces.Discrete(4)


def test_random_moves_succeed_as_often_as_the_exact_sum_says_which_is_the_paper_s_3_percent() -> None:
    chance = chance_of_reaching(PHASE_STEPS[KEY_ROOM]) * chance_of_reaching(PHASE_STEPS[DOOR_ROOM])
    assert chance == pytest.approx(0.02983, abs=5e-6)
    episodes, generator = 5000, np.random.default_rng(0)
    successes = sum(
        played(scripted(generator.integers(4, size=GAME_STEPS).tolist()), seed)[-1][1] for seed in range(episodes)
    )
    # 2.6 standard deviations of the binomial distribution, its middle 99 %: 119 to 180 of 5000.
    assert abs(successes - episodes * chance) < 2.6 * np.sqrt(episodes * chance * (1 - chance))


@pytest.mark.parametrize("seed", range(50))
def test_who_walks_to_the_key_and_to_the_door_always_succeeds(seed: int) -> None:
    steps = played(keen, seed)
    assert [reward for _, reward, *_ in steps] == [0.0] * (len(steps) - 1) + [1.0]
    assert [info["success"] for *_, info in steps[1:]] == [False] * (len(steps) - 2) + [True]
    assert steps[-1][2:4] == (True, False)


@pytest.mark.parametrize("seed", range(50))
def test_who_walks_only_to_the_door_never_succeeds_and_ends_there(seed: int) -> None:
    steps = played(hasty, seed)
    cell, _, door, room = steps[-1][0].tolist()
    assert (cell, room) == (door, DOOR_ROOM)
    assert steps[-1][2:4] == (True, False)
    assert not any(reward for _, reward, *_ in steps)
    assert all(info["success"] is False for *_, info in steps[1:])


def test_the_clock_opens_the_rooms_and_terminates_the_game_for_gymnasium_too() -> None:
    environment = gymnasium.make("pipeline.key_to_door:KeyToDoor-v0")
    observation, _ = environment.reset(seed=0)
    rooms, ends = [observation[3]], []
    for _ in range(GAME_STEPS):
        observation, _, terminated, truncated, _ = environment.step(DOWN)
        rooms.append(observation[3])
        ends.append((terminated, truncated))
    # The last observation is still one of the last room.
    assert rooms == [KEY_ROOM] * 6 + [EMPTY_ROOM] * 3 + [DOOR_ROOM] * 7
    assert ends == [(False, False)] * 14 + [(True, False)]


def test_rooms_are_entered_at_the_bottom_and_key_and_door_lie_at_the_top_anywhere_in_the_row() -> None:
    games = [np.array([step[0] for step in played(scripted([DOWN] * GAME_STEPS), seed)]) for seed in range(100)]
    entered = np.array([game[[0, 6, 9]] for game in games])
    for room in range(3):
        assert set(entered[:, room, 0]) == {6, 7, 8}
    assert set(entered[:, KEY_ROOM, 1]) == set(entered[:, DOOR_ROOM, 2]) == {0, 1, 2}


def test_key_and_door_are_shown_in_their_rooms_only() -> None:
    for seed in range(20):
        for _, key, door, room in (step[0].tolist() for step in played(scripted([DOWN] * GAME_STEPS), seed)):
            assert (key != UNSEEN) == (room == KEY_ROOM)
            assert (door != UNSEEN) == (room == DOOR_ROOM)


def test_a_key_that_was_taken_is_no_longer_shown() -> None:
    for seed in range(20):
        shown = [step[0].tolist() for step in played(keen, seed)]
        key = shown[0][1]
        taken = next(i for i, (cell, *_) in enumerate(shown) if cell == key)
        assert [row[1] for row in shown[:taken]] == [key] * taken
        assert {row[1] for row in shown[taken:]} == {UNSEEN}


def test_from_the_second_room_on_nothing_shows_whether_the_key_was_taken() -> None:
    for seed in range(50):
        with_key = played(keen, seed)
        without = played(lambda observation: DOWN if observation[3] == KEY_ROOM else keen(observation), seed)
        assert [step[1] for step in (with_key[-1], without[-1])] == [1.0, 0.0]
        shown = [[step[0].tolist() for step in steps[PHASE_STEPS[KEY_ROOM] :]] for steps in (with_key, without)]
        assert shown[0] == shown[1]


# Within the clock of the first room, into every wall.
@pytest.mark.parametrize("actions", [(DOWN, LEFT, LEFT, LEFT, UP), (RIGHT, RIGHT, UP, UP, UP)])
@pytest.mark.parametrize("seed", range(10))
def test_a_move_goes_up_right_down_or_left_and_a_wall_keeps_the_player_where_it_is(
    seed: int, actions: tuple[int, ...]
) -> None:
    places = {UP: (-1, 0), RIGHT: (0, 1), DOWN: (1, 0), LEFT: (0, -1)}
    cells = [int(step[0][0]) for step in played(scripted((*actions, *[DOWN] * GAME_STEPS)), seed)][: len(actions) + 1]
    for before, action, after in zip(cells, actions, cells[1:], strict=False):
        row, column = np.clip(np.add(divmod(before, SIDE), places[action]), 0, SIDE - 1)
        assert after == row * SIDE + column


def test_the_same_seed_gives_the_same_episode_and_another_one_another() -> None:
    def told(seed: int) -> str:
        actions = np.random.default_rng(1).integers(4, size=GAME_STEPS).tolist()
        return repr(played(scripted(actions), seed))

    assert told(3) == told(3)
    assert len({told(seed) for seed in range(10)}) > 5


def test_a_reset_without_a_seed_goes_on_with_the_generator() -> None:
    first, second = KeyToDoor(), KeyToDoor()
    for environment in (first, second):
        environment.reset(seed=0)
    cells = [[environment.reset()[0].tolist() for _ in range(10)] for environment in (first, second)]
    assert cells[0] == cells[1]
    assert any(row != cells[0][0] for row in cells[0])


def test_the_picture_has_even_sides_and_shows_what_is_in_the_room() -> None:
    environment = KeyToDoor(render_mode="rgb_array")
    observation, _ = environment.reset(seed=0)
    pictures = [environment.render()]
    while observation[3] != DOOR_ROOM:
        observation, *_ = environment.step(DOWN)
        pictures.append(environment.render())
    for picture in pictures:
        assert picture is not None
        assert picture.shape == (96, 96, 3)
        assert picture.dtype == np.uint8
    colours = [len(np.unique(pictures[i].reshape(-1, 3), axis=0)) for i in (0, 6, 9)]  # type: ignore[union-attr]
    # Floor, lines and player, and beside them the key, nothing, the door.
    assert colours == [4, 3, 4]


def test_a_player_with_the_key_is_drawn_with_it() -> None:
    environment = KeyToDoor(render_mode="rgb_array")
    observation, _ = environment.reset(seed=0)
    while observation[3] == KEY_ROOM:
        observation, *_ = environment.step(keen(observation))
    picture = environment.render()
    assert picture is not None
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 4


def test_without_a_render_mode_there_is_no_picture_and_an_unknown_one_is_refused() -> None:
    environment = KeyToDoor()
    environment.reset(seed=0)
    assert environment.render() is None
    with pytest.raises(EnvironmentSetupError, match=r"render_mode is 'human'; expected 'rgb_array' or None"):
        KeyToDoor(render_mode="human")


def test_the_shipped_settings_make_one_hot_observations_and_collect_discrete_actions() -> None:
    experiment = parse_experiment("", ["--config", str(REPOSITORY / "configs" / "key-to-door.yaml")])
    collector = Collector(experiment.environment, experiment.collect.behaviours, seed=0)
    episodes = [collector.collect(number) for number in range(20)]
    for episode in episodes:
        rows = episode.observations[""]
        assert rows.shape == (len(episode.actions) + 1, 9 + 10 + 10 + 3)
        assert set(np.unique(rows)) == {0, 1}
        assert (np.add.reduceat(rows, [0, 9, 19, 29], axis=1) == 1).all()
        assert episode.actions.dtype == np.int64
        assert (episode.terminated, episode.truncated) == (True, False)
    assert set(np.concatenate([episode.actions for episode in episodes])) == {UP, RIGHT, DOWN, LEFT}
    assert experiment.collect.behaviours == (BehaviourConfig(policy="random"),)


def test_settings_can_film_it() -> None:
    config = EnvironmentConfig(id="pipeline.key_to_door:KeyToDoor-v0")
    environment = make_environment(config, render_mode="rgb_array")
    environment.reset(seed=0)
    assert isinstance(environment.render(), np.ndarray)
