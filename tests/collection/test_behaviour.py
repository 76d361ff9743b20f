from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from pydantic import ValidationError

from pipeline.collection.behaviour import Behaviour
from pipeline.collection.config import BehaviourConfig
from pipeline.data.spaces import Spaces
from pipeline.errors import ConfigError
from tests.collection.test_policy_file import write_policy

PENDULUM = Box(-3, 3, (1,), np.float32)
STATES = Box(-np.inf, np.inf, (4,))
UPRIGHT = np.array([0.1, 0.0, 0.0, 0.0])


def behaviour(actions: Box | Discrete = PENDULUM, **config: object) -> Behaviour:
    return Behaviour(BehaviourConfig.model_validate(config), Spaces.of(STATES, actions))


def actions(acting: Behaviour, count: int = 2000, noise: float = 0.0) -> np.ndarray:
    generator = np.random.default_rng(0)
    return np.array([acting.action(UPRIGHT, step, noise, generator)[0] for step in range(count)])


def test_a_scripted_controller_without_noise_is_itself() -> None:
    assert set(actions(behaviour(policy="inverted_pendulum"))) == {0.05}


def test_noise_has_its_standard_deviation() -> None:
    drawn = actions(behaviour(policy="inverted_pendulum"), noise=0.4)
    assert drawn.mean() == pytest.approx(0.05, abs=0.05)
    assert drawn.std() == pytest.approx(0.4, rel=0.1)


def test_actions_stay_within_the_bounds() -> None:
    drawn = actions(behaviour(policy="inverted_pendulum"), noise=10.0)
    assert (drawn.min(), drawn.max()) == (-3, 3)


def test_a_random_policy_is_uniform_over_the_action_space() -> None:
    drawn = actions(behaviour(policy="random"))
    assert np.histogram(drawn, bins=4, range=(-3, 3))[0] == pytest.approx([500] * 4, rel=0.2)


def test_the_random_share_is_the_share_of_random_actions() -> None:
    drawn = actions(behaviour(policy="inverted_pendulum", random_share=0.25))
    assert (drawn != 0.05).mean() == pytest.approx(0.25, abs=0.04)


def test_noise_is_drawn_between_its_bounds() -> None:
    acting = behaviour(policy="inverted_pendulum", noise=0.5, max_noise=1.5)
    drawn = [acting.noise(np.random.default_rng(seed)) for seed in range(200)]
    assert 0.5 <= min(drawn) < 0.6
    assert 1.4 < max(drawn) <= 1.5
    assert behaviour(policy="inverted_pendulum", noise=0.5).noise(np.random.default_rng(0)) == 0.5


def test_a_policy_file_acts(tmp_path: Path) -> None:
    write_policy(tmp_path / "p.npz", {"obs_slice": [0, 2]})
    assert actions(behaviour(policy=str(tmp_path / "p.npz"))) == pytest.approx(0.1)


def test_discrete_actions_are_drawn_evenly() -> None:
    drawn = actions(behaviour(Discrete(3, start=1), policy="random"))
    assert np.bincount(drawn.astype(int)) == pytest.approx([667] * 3, rel=0.15)


def test_an_unknown_policy_is_refused_with_those_that_exist() -> None:
    with pytest.raises(
        ConfigError, match=r"policy 'best'; expected random, one of \['inverted_pendulum', 'reacher'\], or"
    ):
        behaviour(policy="best")


def test_a_policy_of_other_actions_is_refused(tmp_path: Path) -> None:
    write_policy(tmp_path / "p.npz", {"obs_slice": [0, 2]})
    told = r"p.npz', which gives actions of shape \(1,\); expected one for observations of 4 numbers and .* \(2,\)"
    with pytest.raises(ConfigError, match=told):
        behaviour(Box(-1, 1, (2,)), policy=str(tmp_path / "p.npz"))


def test_a_policy_of_other_observations_is_refused(tmp_path: Path) -> None:
    write_policy(tmp_path / "p.npz")
    for policy in ("reacher", str(tmp_path / "p.npz")):
        with pytest.raises(ConfigError, match=r"which fails there \(.*\); expected one for observations of 3 "):
            Behaviour(BehaviourConfig(policy=policy), Spaces.of(Box(-1, 1, (3,)), PENDULUM))


def test_samples_of_a_policy_without_a_gaussian_are_refused(tmp_path: Path) -> None:
    write_policy(tmp_path / "p.npz", {"obs_slice": [0, 2]})
    with pytest.raises(ConfigError, match=r"samples of the policy '.*p.npz'; expected one with a Gaussian of its own"):
        behaviour(policy=str(tmp_path / "p.npz"), sample=True)


def test_a_policy_is_sampled_from_its_gaussian(tmp_path: Path) -> None:
    write_policy(tmp_path / "p.npz", {"obs_slice": [0, 2]}, log_std=np.log([0.5]))
    assert actions(behaviour(policy=str(tmp_path / "p.npz"), sample=True)).std() == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"policy": "random", "noise": 0.1}, "policy random has noise; expected none"),
        ({"policy": "random", "max_noise": 0.1}, "policy random has noise; expected none"),
        ({"policy": "reacher", "sample": True}, "policy reacher is sampled; expected a policy file"),
    ],
)
def test_settings_without_an_effect_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        BehaviourConfig.model_validate(settings)


def test_a_controller_for_discrete_actions_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected random: the environment's actions are discrete"):
        behaviour(Discrete(3), policy="inverted_pendulum")


def test_actions_without_bounds_are_refused() -> None:
    with pytest.raises(ConfigError, match="the environment's actions have no bounds; expected bounds"):
        behaviour(Box(-np.inf, np.inf, (1,)))


def test_max_noise_below_noise_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"max_noise is 0.1; expected at least noise, 0.5"):
        BehaviourConfig(policy="reacher", noise=0.5, max_noise=0.1)
