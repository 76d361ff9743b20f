from pathlib import Path
from typing import Any

import gymnasium
import pytest

from pipeline.data.manifest import SourceRecord, write_manifest
from pipeline.environments import EnvironmentConfig, WrapperConfig
from pipeline.errors import EnvironmentSetupError
from pipeline.evaluation.environment_check import (
    FittingEnvironment,
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
    assert (found.id, found.max_episode_steps, found.spaces) == (ID.rpartition(":")[2], 1000, SPACES)


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


def test_bounds_that_the_data_does_not_name_are_the_environment_s() -> None:
    unbounded = SPACES.model_copy(update={"action_low": None, "action_high": None})
    assert check(unbounded).spaces == SPACES
    narrower = SPACES.model_copy(update={"action_low": (-0.5,), "action_high": (0.5,)})
    assert check(narrower).spaces == narrower


def test_another_environment_or_limit_than_the_data_s_is_told() -> None:
    found = check(max_episode_steps=50)
    assert found.departures(None) == found.departures({"id": found.id, "max_episode_steps": None}) == []
    assert found.departures({"id": found.id, "max_episode_steps": 50, "kwargs": {}}) == []
    told = found.departures({"id": "Hopper-v4", "max_episode_steps": 1000})
    assert told[0].startswith(f"environment.id is {found.id!r}, but the data was collected with 'Hopper-v4': ")
    assert told[1].startswith("environment.max_episode_steps is 50, but the data was collected with 1000: ")


@pytest.fixture
def shards(tmp_path: Path) -> str:
    """Data of the counting environment with another limit than its own."""
    recorded = {"id": "Counting-v0", "max_episode_steps": 70, "kwargs": {}}
    source = SourceRecord(
        name="counted", episodes=2, steps=9, available_episodes=2, fingerprint="0", environment=recorded
    )
    write_manifest(tmp_path, tiny_manifest(sources=(source,)))
    return str(tmp_path)


def test_before_a_training_another_limit_than_the_data_s_is_told(
    shards: str, capsys: pytest.CaptureFixture[str]
) -> None:
    require_environment(EnvironmentConfig(id=ID, max_episode_steps=50), shards)
    assert capsys.readouterr().out.startswith(
        "note: environment.max_episode_steps is 50, but the data was collected with 70: "
    )


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
        require_environment(EnvironmentConfig(id=other), shards)
