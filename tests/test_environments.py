import re

import gymnasium
import pytest
from gymnasium.envs.classic_control import PendulumEnv

from pipeline.environments import EnvironmentConfig, WrapperConfig, make_environment, time_limit
from pipeline.errors import EnvironmentSetupError


def made(*wrappers: WrapperConfig) -> gymnasium.Env:
    return make_environment(EnvironmentConfig(id="Pendulum-v1", wrappers=wrappers))


def test_the_time_limit_of_the_configuration_ends_the_episode() -> None:
    environment = make_environment(EnvironmentConfig(id="Pendulum-v1", max_episode_steps=3))
    environment.reset(seed=0)
    assert [environment.step(environment.action_space.sample())[3] for _ in range(3)] == [False, False, True]


def test_the_time_limit_is_that_of_gymnasium_the_configuration_s_or_none() -> None:
    plain = EnvironmentConfig(id="Pendulum-v1")
    assert time_limit(make_environment(plain)) == 200
    assert time_limit(make_environment(plain.model_copy(update={"max_episode_steps": 3}))) == 3
    assert time_limit(PendulumEnv()) is None


def test_wrappers_come_in_the_order_given_the_innermost_first() -> None:
    environment = made(
        WrapperConfig(name="FrameStackObservation", kwargs={"stack_size": 2}),
        WrapperConfig(name="gymnasium.wrappers:FlattenObservation"),
        WrapperConfig(name="TimeLimit", kwargs={"max_episode_steps": 2}),
    )
    assert environment.observation_space.shape == (6,)
    assert environment.spec is not None
    assert environment.spec.max_episode_steps == 2
    assert isinstance(environment.env, gymnasium.wrappers.FlattenObservation)


def test_an_unknown_environment_is_refused() -> None:
    with pytest.raises(EnvironmentSetupError, match=r"environment.id is 'Hoper-v5'; expected an environment"):
        make_environment(EnvironmentConfig(id="Hoper-v5"))


def test_an_argument_that_the_environment_does_not_take_is_refused() -> None:
    with pytest.raises(EnvironmentSetupError, match=r"with the arguments \{'mass': 3\}"):
        make_environment(EnvironmentConfig(id="Pendulum-v1", kwargs={"mass": 3}))


RAISED = {"key": KeyError("maze"), "value": ValueError("no maze"), "file": FileNotFoundError("maze.xml")}


class Refusing(gymnasium.Env):
    def __init__(self, raises: str) -> None:
        raise RAISED[raises]


gymnasium.register("Refusing-v0", Refusing)


@pytest.mark.parametrize("raises", RAISED)
def test_an_argument_that_the_environment_s_constructor_raises_at_is_refused(raises: str) -> None:
    error = re.escape(f"with the arguments {{'raises': {raises!r}}} ({type(RAISED[raises]).__name__}: ")
    with pytest.raises(EnvironmentSetupError, match=error):
        make_environment(EnvironmentConfig(id="Refusing-v0", kwargs={"raises": raises}))


@pytest.mark.parametrize("name", ["Flatten", "no_such_module:Wrapper"])
def test_an_unknown_wrapper_is_refused(name: str) -> None:
    with pytest.raises(EnvironmentSetupError, match=rf"wrappers\[0\].name is '{name}'; expected a class of gymnasium"):
        made(WrapperConfig(name=name))


def test_what_is_no_wrapper_is_refused() -> None:
    with pytest.raises(EnvironmentSetupError, match=r"is 'pathlib:Path'; expected a subclass of gymnasium.Wrapper"):
        made(WrapperConfig(name="pathlib:Path"))


def test_an_argument_that_the_wrapper_does_not_take_is_refused() -> None:
    with pytest.raises(EnvironmentSetupError, match=r"wrappers\[0\].kwargs is \{'steps': 3\}; expected what TimeLimit"):
        made(WrapperConfig(name="TimeLimit", kwargs={"steps": 3}))
