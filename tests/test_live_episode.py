import numpy as np
import pytest

from pipeline.data.spaces import Spaces
from pipeline.errors import EnvironmentFaultError
from pipeline.live_episode import LiveEpisode
from tests.quirks import Quirky


def live(quirk: str, is_dict: bool = False) -> LiveEpisode:
    environment = Quirky(quirk, is_dict)
    return LiveEpisode(environment, Spaces.of(environment.observation_space, environment.action_space))


def played(quirk: str, is_dict: bool = False) -> tuple[list[list[float]], list[tuple[float, bool, bool]]]:
    """Plays an episode; returns the columns that it observed, and what its steps gave."""
    episode = live(quirk, is_dict)
    episode.reset(0)
    columns, steps = [episode.columns.tolist()], []
    while not steps or not (steps[-1].terminated or steps[-1].truncated):
        steps.append(episode.step(np.array([0.5])))
        columns.append(episode.columns.tolist())
    return columns, [(step.reward, step.terminated, step.truncated) for step in steps]


@pytest.mark.parametrize("is_dict", [False, True])
def test_what_was_observed_is_kept_when_the_environment_changes_it(is_dict: bool) -> None:
    episode = live("shared", is_dict)
    episode.reset(0)
    before, columns = episode.observation, episode.columns
    kept = {key: array.tolist() for key, array in before.items()}, columns.tolist()
    episode.step(np.array([0.5]))
    assert ({key: array.tolist() for key, array in before.items()}, columns.tolist()) == kept
    assert episode.columns.tolist() != kept[1]


def test_the_action_that_was_given_is_kept_when_the_environment_changes_it() -> None:
    episode = live("changes the action")
    episode.reset(0)
    assert episode.step(np.array([0.5])).action == np.array([0.5], np.float32)


@pytest.mark.parametrize("quirk", ["reward array", "terminated array", "terminated number", "another shape", "list"])
def test_one_number_in_an_array_is_a_number_and_an_observation_has_the_space_s_shape(quirk: str) -> None:
    columns, steps = played("")
    assert steps == [(row[0], number == 10, False) for number, row in enumerate(columns) if number]
    assert played(quirk) == (columns, steps)
    assert {tuple(map(type, step)) for step in played(quirk)[1]} == {(float, bool, bool)}


@pytest.mark.parametrize(
    ("quirk", "message"),
    {
        "reset without seed": r"reset\(seed\) raised TypeError: .* argument 'seed', at quirks.py:\d+ in reset",
        "reset without info": r"reset\(seed\) gave ndarray; expected \(observation, info\)",
        "step raises": r"step 2 raised RuntimeError: the leg fell off, at quirks.py:\d+ in step",
        "step exits": r"step 2 raised SystemExit: the window was closed, at quirks.py:\d+ in step",
        "old step": r"step 1 gave 4 values; expected \(observation, reward, terminated, truncated, info\)",
        "reward None": r"step 1 gave the reward None; expected one number",
        "reward text": r"step 1 gave the reward '1.0'; expected one number",
        "many rewards": r"step 1 gave the reward array\(\[0., .* \[\.\.\.\]; expected one number",
        "two rewards": r"step 1 gave the reward array\(\[0., 0.\]\); expected one number",
        "terminated None": r"step 1 gave terminated as None; expected True or False",
        "terminated by a count": r"step 1 gave terminated as 7; expected True or False",
        "two truncated": r"step 1 gave truncated as array\(\[False, False\]\); expected True or False",
        "no info": r"step 1 gave the info None; expected a dictionary",
        "other numbers": r"step 2 gave an observation of shape \(4,\); expected 3 numbers of shape \(3,\)",
        "ragged": r"step 2 gave the observation \[\[1.0\], \[1.0, 2.0\]\]; expected 3 numbers of shape \(3,\)",
        "text": r"step 2 gave the observation 'far'; expected 3 numbers of shape \(3,\)",
    }.items(),
)
def test_what_gymnasium_does_not_foresee_is_named_with_the_step_that_gave_it(quirk: str, message: str) -> None:
    with pytest.raises(EnvironmentFaultError, match=rf"^{message}$"):
        played(quirk)


def test_a_key_that_is_missing_is_named() -> None:
    with pytest.raises(
        EnvironmentFaultError,
        match=r"^step 2 gave the observation \['place'\]; expected the keys \['clock', 'place'\]$",
    ):
        played("missing key", is_dict=True)
