import re
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control import PendulumEnv

from pipeline import environments
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


def test_what_mujoco_warns_of_with_every_environment_is_told_once_and_written_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(environments, "_warnings_of_mujoco", set())
    monkeypatch.chdir(tmp_path)
    pendulum = EnvironmentConfig(id="InvertedPendulum-v5")
    make_environment(pendulum).close()
    for _ in range(3):
        environment = make_environment(pendulum)
        environment.reset(seed=0)
        environment.step(np.full(1, np.nan))
        environment.close()
    assert [record.getMessage()[:37] for record in caplog.records] == ["MuJoCo: Nan, Inf or huge value in CTR"]
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_environment_is_refused() -> None:
    with pytest.raises(EnvironmentSetupError, match=r"environment.id is 'Hoper-v5'; expected an environment"):
        make_environment(EnvironmentConfig(id="Hoper-v5"))


def test_an_argument_that_the_environment_does_not_take_is_refused() -> None:
    for name in ("mass", "max_episode_steps"):
        with pytest.raises(EnvironmentSetupError, match=rf"with the arguments {{'{name}': 3}} \(TypeError: .*'{name}'"):
            make_environment(EnvironmentConfig(id="Pendulum-v1", kwargs={name: 3}))


RAISED = {
    "key": KeyError("maze"),
    "value": ValueError("no maze"),
    "file": FileNotFoundError("maze.xml"),
    "licence": RuntimeError("no licence:\nask for one"),
    "attribute": AttributeError("no maze"),
    "exit": SystemExit(3),
}
TOLD = {"licence": "RuntimeError: no licence: ask for one", "exit": "SystemExit: 3"}


class Refusing(gymnasium.Env):
    def __init__(self, raises: str) -> None:
        raise RAISED[raises]


gymnasium.register("Refusing-v0", Refusing)


@pytest.mark.parametrize("raises", RAISED)
def test_an_argument_that_the_environment_s_constructor_raises_at_is_refused(raises: str) -> None:
    error = TOLD.get(raises, f"{type(RAISED[raises]).__name__}: {RAISED[raises]}")
    told = re.escape(f"with the arguments {{'raises': {raises!r}}} ({error}, at test_environments.py:")
    with pytest.raises(EnvironmentSetupError, match=rf"{told}\d+ in __init__\)"):
        make_environment(EnvironmentConfig(id="Refusing-v0", kwargs={"raises": raises}))


@pytest.mark.parametrize("name", ["Flatten", "no_such_module:Wrapper"])
def test_an_unknown_wrapper_is_refused(name: str) -> None:
    told = rf"wrappers\[0\].name is '{name}'; expected a class of gymnasium.* \((Attribute|ModuleNotFound)Error: .*'\)"
    with pytest.raises(EnvironmentSetupError, match=told):
        made(WrapperConfig(name=name))


@pytest.mark.parametrize(
    ("content", "told"),
    {
        "raise RuntimeError('no display')": "RuntimeError: no display, at broken_wrappers.py:1 in <module>",
        "import sys; sys.exit('no display')": "SystemExit: no display, at broken_wrappers.py:1 in <module>",
        "class :": "SyntaxError: ",
    }.items(),
)
def test_a_module_that_cannot_be_imported_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, told: str
) -> None:
    (tmp_path / "broken_wrappers.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EnvironmentSetupError, match=rf"wrappers\[0\].name is 'broken_wrappers:Own'; .* \({told}"):
        made(WrapperConfig(name="broken_wrappers:Own"))
    with pytest.raises(EnvironmentSetupError, match=rf"environment.id is 'broken_wrappers:Own-v0'; .* \({told}"):
        make_environment(EnvironmentConfig(id="broken_wrappers:Own-v0"))


def test_what_is_no_wrapper_is_refused() -> None:
    with pytest.raises(EnvironmentSetupError, match=r"is 'pathlib:Path'; expected a subclass of gymnasium.Wrapper"):
        made(WrapperConfig(name="pathlib:Path"))


class Failing(gymnasium.Wrapper):
    def __init__(self, environment: gymnasium.Env) -> None:
        raise RuntimeError("no statistics")


def test_a_wrapper_that_raises_is_refused_with_the_place() -> None:
    told = r"expected what .*:Failing takes \(RuntimeError: no statistics, at test_environments.py:\d+ in __init__\)"
    with pytest.raises(EnvironmentSetupError, match=told):
        made(WrapperConfig(name=f"{__name__}:Failing"))


def test_an_argument_that_the_wrapper_does_not_take_is_refused() -> None:
    with pytest.raises(EnvironmentSetupError, match=r"wrappers\[0\].kwargs is \{'steps': 3\}; expected what TimeLimit"):
        made(WrapperConfig(name="TimeLimit", kwargs={"steps": 3}))
