"""Collecting in environments that do what Gymnasium's documents do not foresee."""

import re
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest

from pipeline.collection.config import BehaviourConfig
from pipeline.collection.dataset import minari_root, write_dataset
from pipeline.collection.episodes import CollectedEpisode, Collector
from pipeline.collection.origin import Origin
from pipeline.data.minari_source import MinariSource
from pipeline.data.spaces import Spaces
from pipeline.environments import EnvironmentConfig, WrapperConfig, make_environment
from pipeline.errors import EnvironmentFaultError, EnvironmentSetupError
from tests.quirks import ID, Quirky, quirky


def collected(environment: EnvironmentConfig, *episodes: int) -> list[CollectedEpisode]:
    collector = Collector(environment, [BehaviourConfig()], 0)
    return [collector.collect(episode) for episode in episodes]


def assert_same(found: CollectedEpisode, expected: CollectedEpisode) -> None:
    assert found.observations.keys() == expected.observations.keys()
    for key, array in expected.observations.items():
        np.testing.assert_array_equal(found.observations[key], array)
        assert found.observations[key].dtype == array.dtype
    for name in ("actions", "rewards", "terminated", "truncated", "seed"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("is_dict", [False, True])
def test_an_environment_that_goes_on_changing_what_it_returned_changes_no_data(is_dict: bool) -> None:
    (expected,) = collected(quirky("", is_dict), 0)
    assert not np.array_equal(*expected.observations["place" if is_dict else ""][[0, -1]])
    assert_same(collected(quirky("shared", is_dict), 0)[0], expected)


def test_an_environment_that_changes_the_action_that_it_is_given_changes_no_data() -> None:
    (expected,) = collected(quirky(""), 0)
    assert expected.actions.any()
    assert_same(collected(quirky("changes the action"), 0)[0], expected)


WRAPPERS = ["NormalizeObservation", "NormalizeReward"]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_a_wrapper_gathers_does_not_reach_the_next_episode(wrapper: str) -> None:
    environment = EnvironmentConfig(
        id="InvertedPendulum-v5", max_episode_steps=20, wrappers=(WrapperConfig(name=wrapper),)
    )
    *_, after_others = collected(environment, 0, 1, 2, 3)
    assert_same(after_others, collected(environment, 3)[0])


def test_fixed_statistics_are_arguments_of_a_wrapper() -> None:
    mean, deviation = [1.0, 2.0, 3.0], [2.0, 4.0, 8.0]
    wrapper = WrapperConfig(name="tests.quirks:Standardized", kwargs={"mean": mean, "deviation": deviation})
    found = collected(quirky("").model_copy(update={"wrappers": (wrapper,)}), 0, 1)
    for episode, plain in zip(found, collected(quirky(""), 0, 1), strict=True):
        np.testing.assert_array_equal(episode.observations[""], (plain.observations[""] - mean) / deviation)


@pytest.mark.parametrize("quirk", ["reward array", "terminated array", "another shape"])
def test_one_number_in_an_array_is_a_number(quirk: str) -> None:
    assert_same(collected(quirky(quirk), 0)[0], collected(quirky(""), 0)[0])


@pytest.mark.parametrize(
    ("quirk", "told"),
    {
        "reward None": "step 1 gave the reward None; expected one number",
        "reset without seed": r"reset\(seed\) raised TypeError: .*'seed', at quirks.py:\d+ in reset",
        "step raises": r"step 2 raised RuntimeError: the leg fell off, at quirks.py:\d+ in step",
        "old step": r"step 1 raised ValueError: not enough values to unpack \(expected 5, got 4\)",
        "other numbers": r"step 2 gave an observation of shape \(4,\); expected 3 numbers of shape \(3,\)",
    }.items(),
)
def test_what_an_environment_does_wrong_is_one_sentence_with_its_episode(quirk: str, told: str) -> None:
    with pytest.raises(
        EnvironmentFaultError,
        match=rf"^environment.id is '{ID}', whose episode 7 failed: {told}. Put the environment right, or a wrapper",
    ):
        collected(quirky(quirk), 7)


@pytest.mark.parametrize("quirk", ["constructor raises", "constructor exits"])
def test_an_environment_whose_constructor_fails_is_refused(quirk: str) -> None:
    with pytest.raises(EnvironmentSetupError, match=r"\((RuntimeError: licence server is not reach|SystemExit: 3)"):
        Collector(quirky(quirk), [BehaviourConfig()], 0)


def test_every_environment_that_was_made_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    open_ones: list[Quirky] = []
    made = Quirky.__init__

    def noted(environment: Quirky, **kwargs: Any) -> None:
        made(environment, **kwargs)
        open_ones.append(environment)

    monkeypatch.setattr(Quirky, "__init__", noted)
    monkeypatch.setattr(Quirky, "close", lambda environment: open_ones.remove(environment))
    collector = Collector(quirky("step raises"), [BehaviourConfig()], 0)
    with pytest.raises(EnvironmentFaultError):
        collector.collect(0)
    assert open_ones == []


def written(root: Path, environment_id: str, **kwargs: Any) -> tuple[Collector, MinariSource]:
    """Writes a data set of one episode and returns who collected it, and what is read."""
    config = EnvironmentConfig(id=f"tests.quirks:{environment_id}", kwargs=kwargs)
    collector = Collector(config, [BehaviourConfig()], 0)
    write_dataset(root, "space/data-v0", [collector.collect(0)], collector.origin)
    return collector, MinariSource.open("space/data-v0", str(root / "space/data-v0"))


def test_an_environment_that_was_registered_by_its_class_is_recorded_by_its_name(tmp_path: Path) -> None:
    collector, source = written(tmp_path, "ByClass-v0")
    assert collector.origin.not_recorded == ""
    assert source.environment == {"id": "ByClass-v0", "max_episode_steps": 20, "kwargs": {}, "additional_wrappers": []}
    with minari_root(tmp_path):
        recovered = minari.load_dataset("space/data-v0").recover_environment()
    assert type(recovered.unwrapped) is Quirky
    assert recovered.unwrapped.spec.entry_point == "tests.quirks:Quirky"


def test_a_registration_by_names_is_recorded_as_it_is() -> None:
    environment = make_environment(quirky(""))
    origin = Origin.of(environment)
    assert (origin.specification, origin.not_recorded) == (environment.spec, "")
    assert origin.stand_in().spec.to_json() == environment.spec.to_json()


@pytest.mark.parametrize(
    ("environment_id", "told"),
    {"ByFunction-v0": "Callable found in .* for entry_point", "ByArguments-v0": "is not JSON serializable"}.items(),
)
def test_a_registration_that_cannot_be_written_down_is_told_and_left_out(
    tmp_path: Path, environment_id: str, told: str
) -> None:
    collector, source = written(tmp_path, environment_id)
    assert re.search(told, collector.origin.not_recorded)
    assert source.environment is None
    assert source.spaces == Spaces.of(collector.origin.observation_space, collector.origin.action_space)
    assert source.listing().lengths.tolist() == [10]
