from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Discrete

from pipeline.data.manifest import Manifest, SourceRecord, read_manifest, write_manifest
from pipeline.data.spaces import Spaces
from pipeline.environments import EnvironmentConfig, WrapperConfig
from pipeline.errors import EnvironmentSetupError
from pipeline.evaluation.environment_check import (
    FittingEnvironment,
    _tell,
    check_environment,
    require_environment,
    tell_environment,
)
from tests.evaluation.counting import ID, SPACES, Counting
from tests.evaluation.tiny_run import tiny_manifest

gymnasium.register("Endless-v0", Counting)


def check(spaces: Any = SPACES, **environment: Any) -> FittingEnvironment:
    return check_environment(EnvironmentConfig(**{"id": ID, **environment}), spaces)


def test_the_data_s_own_environment_fits() -> None:
    found = check()
    assert (found.specification["id"], found.specification["max_episode_steps"]) == (ID.rpartition(":")[2], 1000)
    assert found.spaces == SPACES
    assert found.departures(tiny_manifest()) == []


def test_an_environment_with_other_spaces_is_refused_with_what_differs() -> None:
    with pytest.raises(
        EnvironmentSetupError,
        match=r"'Pendulum-v1'; expected the spaces of the data: observation_sizes is \(3,\), in the data \(2,\)",
    ):
        check(id="Pendulum-v1")


def test_an_environment_with_spaces_that_are_not_supported_is_refused() -> None:
    with pytest.raises(EnvironmentSetupError, match=r"'Blackjack-v1'; expected .* the spaces of the data: .* Tuple"):
        check(id="Blackjack-v1")


def test_an_environment_that_might_never_end_is_refused() -> None:
    with pytest.raises(EnvironmentSetupError, match="max_episode_steps is null; expected a number of steps"):
        check(id="Endless-v0")
    check(id="Endless-v0", max_episode_steps=5)
    check(id="Endless-v0", wrappers=(WrapperConfig(name="TimeLimit", kwargs={"max_episode_steps": 5}),))


@pytest.mark.parametrize("low", [None, -0.5])
def test_methods_act_in_the_environment_s_own_spaces(low: float | None) -> None:
    data = SPACES.model_copy(update={"action_low": low and (low,), "action_high": low and (0.5,)})
    assert data.action_low != SPACES.action_low
    assert check(data).spaces == SPACES


def collected_in(*environments: dict[str, Any] | None, **changes: Any) -> Manifest:
    """Data of the counting environment, of several data sets that say what they were collected in."""
    facts = {"name": "counted", "episodes": 2, "steps": 9, "available_episodes": 2, "fingerprint": "0"}
    return tiny_manifest(sources=tuple(SourceRecord(**facts, environment=one) for one in environments), **changes)


def test_another_environment_or_limit_than_the_data_s_is_told() -> None:
    found = check(max_episode_steps=50)
    name = ID.rpartition(":")[2]
    assert found.departures(collected_in(None, {"id": name, "max_episode_steps": None})) == []
    assert found.departures(collected_in({"id": name, "max_episode_steps": 50, "kwargs": {}})) == []
    told = found.departures(collected_in({"id": "Hopper-v4", "max_episode_steps": 1000}))
    assert told[0].startswith(f"environment.id is {name!r}, but the data was collected with 'Hopper-v4': ")
    assert told[1].startswith("environment.max_episode_steps is 50, but the data was collected with 1000: ")


@pytest.mark.parametrize("recorded", [None, {"kwargs": {"length": 1}, "max_episode_steps": None}])
def test_a_limit_below_the_data_s_longest_episode_is_told_where_the_data_names_none(recorded: Any) -> None:
    data = collected_in(recorded)
    assert data.statistics.longest_episode == 5
    assert check(max_episode_steps=5, kwargs={"length": 1}).departures(data) == []
    told = check(max_episode_steps=4, kwargs={"length": 1}).departures(data)
    assert len(told) == 1
    assert told[0].startswith("environment.max_episode_steps is 4, but the data has episodes of up to 5 steps: ")


def test_every_data_set_of_a_mixture_is_looked_at_and_the_same_is_told_once() -> None:
    told = check(max_episode_steps=50).departures(
        collected_in({"max_episode_steps": 50}, None, {"max_episode_steps": 70}, {"max_episode_steps": 70})
    )
    assert [line.partition(":")[0] for line in told] == [
        "environment.max_episode_steps is 50, but the data was collected with 70"
    ]


def test_other_arguments_and_wrappers_than_the_data_s_are_told() -> None:
    scaled = WrapperConfig(name="RescaleAction", kwargs={"min_action": -1.0, "max_action": 1.0})
    found = check(kwargs={"length": 5}, wrappers=(scaled,))
    recorded = {"kwargs": {"length": 8, "render_mode": "rgb_array"}, "additional_wrappers": []}
    told = found.departures(collected_in(recorded))
    assert told[0].startswith("environment.kwargs is {'length': 5}, but the data was collected with {'length': 8}: ")
    assert told[1].startswith("environment.wrappers is [{'name': 'RescaleAction', ")
    assert "'min_action': -1.0" in told[1]
    assert ", but the data was collected with []: " in told[1]
    assert len(told) == 2
    same = {"kwargs": {"length": 5, "render_mode": None}}
    wrappers = [{"name": "RescaleAction", "entry_point": "gymnasium.wrappers.transform_action:RescaleAction"}]
    wrappers[0]["kwargs"] = scaled.kwargs
    assert found.departures(collected_in(same | {"additional_wrappers": wrappers})) == []


def bounded(low: float | None, high: float | None) -> Spaces:
    ends = {"action_low": None if low is None else (low,), "action_high": None if high is None else (high,)}
    return SPACES.model_copy(update=ends)


@pytest.mark.parametrize(("low", "high"), [(-5.0, 5.0), (-1.0, 1.1), (-1.1, 0.0)])
def test_data_whose_actions_the_environment_does_not_take_is_refused(low: float, high: float) -> None:
    with pytest.raises(
        EnvironmentSetupError,
        match=rf"the spaces of the data: action\[0\] goes from -1 to 1, in the data from {low:g} to {high:g}\. "
        r"Choose the environment that the data was collected in, with the same environment.kwargs and wrappers",
    ):
        check(bounded(low, high))


def test_data_of_narrower_actions_than_the_environment_s_is_told_with_what_to_do() -> None:
    data = bounded(-0.2, 0.2)
    (told,) = check(data).departures(tiny_manifest(spaces=data))
    assert told.startswith(
        "action[0] goes from -1 to 1, in the data from -0.2 to 0.2: methods act in the data's numbers"
    )
    assert "[{name: RescaleAction, kwargs: {min_action: -0.2, max_action: 0.2}}]" in told
    wrapper = WrapperConfig(name="RescaleAction", kwargs={"min_action": -0.2, "max_action": 0.2})
    assert check(data, wrappers=(wrapper,)).departures(tiny_manifest(spaces=data)) == []


def test_bounds_that_differ_by_their_type_s_last_digit_are_the_same() -> None:
    data = bounded(float(np.float32(-1.0000001)), 1.0)
    assert data.action_low != SPACES.action_low
    assert check(data).departures(tiny_manifest(spaces=data)) == []


def test_an_environment_without_bounds_departs_from_data_with_some() -> None:
    endless = WrapperConfig(name=f"{__name__}:Endless")
    (told,) = check(wrappers=(endless,)).departures(tiny_manifest())
    assert told.startswith("action[0] goes from -inf to inf, in the data from -1 to 1: ")


class Squeezed(gymnasium.ObservationWrapper[Any, Any, Any]):
    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Box(-0.5, 0.5, (2,), np.float64)


class Endless(gymnasium.ActionWrapper[Any, Any, Any]):
    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)


def test_where_the_data_names_no_bounds_its_actions_and_observations_are_held_against_the_environment_s() -> None:
    """As D4RL's files, which name nothing."""
    plain = Spaces.plain(2, 1)
    manifest = tiny_manifest(spaces=plain)
    assert check(plain).departures(manifest) == []
    statistics = manifest.statistics
    wide = tuple(one.model_copy(update={"minimum": -3.0, "maximum": 0.5}) for one in statistics.dimensions)
    found = check(plain).departures(
        tiny_manifest(spaces=plain, statistics=statistics.model_copy(update={"dimensions": wide}))
    )
    assert found == [
        "action[0] goes from -1 to 1, in the data from -3 to 0.5: what is executed is the nearest that the "
        "environment has."
    ]
    (told,) = check(plain, wrappers=(WrapperConfig(name=f"{__name__}:Squeezed"),)).departures(manifest)
    assert told == (
        "observation[0] (and 1 more column) goes from -0.5 to 0.5, in the data from -1 to 1: an observation may mean "
        "something else there."
    )


def test_other_bounds_of_observations_than_the_data_s_are_told() -> None:
    data = SPACES.model_copy(update={"observation_low": (None, -1.0), "observation_high": (None, None)})
    (told,) = check(data).departures(tiny_manifest(spaces=data))
    assert told.startswith("observation[1] goes from -inf to inf, in the data from -1 to inf: an observation may mean")


@pytest.mark.parametrize(
    ("states", "told"), [((0, 500), "the states 0 to 499"), ((1, 16), "the states 1 to 16"), (None, "numbers")]
)
def test_observations_of_other_states_than_the_data_s_are_refused(states: Any, told: str) -> None:
    own = Spaces.of(Discrete(16), Discrete(4))
    data = own.model_copy(update={"observation_states": (states,)})
    frozen_lake = {"id": "FrozenLake-v1", "max_episode_steps": 100}
    with pytest.raises(EnvironmentSetupError, match=rf"observation\[0\] has the states 0 to 15, in the data {told}\. "):
        check(data, **frozen_lake)
    assert check(own, **frozen_lake).spaces == own
    # Manifests of before these were recorded.
    check(own.model_copy(update={"observation_states": None}), **frozen_lake)


def test_whole_actions_of_data_with_fractions_are_told() -> None:
    data = SPACES.model_copy(update={"action_dtype": "int32"})
    (told,) = check(data).departures(tiny_manifest(spaces=data))
    assert told.startswith("the environment takes actions of float32, the data has them as int32: ")


@pytest.fixture
def shards(tmp_path: Path) -> str:
    """Data of the counting environment with another limit than its own."""
    write_manifest(tmp_path, collected_in({"id": "Counting-v0", "max_episode_steps": 70, "kwargs": {}}))
    return str(tmp_path)


@pytest.fixture(autouse=True)
def _nothing_told_yet() -> None:
    _tell.cache_clear()


def test_another_limit_than_the_data_s_is_told_once_in_a_process(
    shards: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """jobs/run.py looks before the training, and its evaluation again."""
    for _ in range(2):
        require_environment(EnvironmentConfig(id=ID, max_episode_steps=50), read_manifest(shards))
    told = capsys.readouterr().out
    assert told.startswith("note: environment.max_episode_steps is 50, but the data was collected with 70: ")
    assert told.count("note: ") == 1


@pytest.mark.parametrize("other", ["Pendulum-v1", "Nothing-v0"])
def test_preparing_tells_of_an_environment_that_does_not_fit_and_goes_on(
    shards: str, capsys: pytest.CaptureFixture[str], other: str
) -> None:
    tell_environment(EnvironmentConfig(id=other), shards)
    told = capsys.readouterr().out
    assert told.startswith(
        f"note: the data can be trained on, but not evaluated: environment.id is {other!r}; expected"
    )
    with pytest.raises(EnvironmentSetupError, match=other):
        require_environment(EnvironmentConfig(id=other), read_manifest(shards))
