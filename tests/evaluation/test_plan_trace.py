import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from pipeline.acting import Decision, Plan
from pipeline.data.spaces import Spaces
from pipeline.errors import EnvironmentFaultError, StorageError
from pipeline.evaluation.plan_trace import PlanTrace, read_trace, trace_plan, warm_up_steps, write_trace
from pipeline.tokens.discretizer import Discretizer
from pipeline.tokens.layout import TransitionLayout

LAYOUT = TransitionLayout.plain(observation_dim=1, action_dim=1, num_bins=10)
DISCRETIZER = Discretizer(LAYOUT, np.tile(np.arange(11.0), (4, 1)))


class Counting(gymnasium.Env[Any, Any]):
    """Observes its step number, rewards the square of the action, and ends after `length` steps."""

    observation_space = gymnasium.spaces.Box(0, 100, (1,))
    action_space = gymnasium.spaces.Box(-10, 10, (1,))

    def __init__(self, length: int) -> None:
        self.length, self.actions, self.seeds = length, [], []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.seeds.append(seed)
        return np.array([0.0]), {}

    def step(self, action: Any) -> Any:
        self.actions.append(float(action[0]))
        done = len(self.actions) == self.length
        return np.array([float(len(self.actions))]), float(action[0]) ** 2, done, False, {}


class Scripted:
    """Plans the actions 1, 2, 3 whenever it is asked, and remembers what it was told."""

    num_slots = 1

    def __init__(self) -> None:
        self.told: list[Any] = []

    def reset(self, slot: int, seed: int) -> None:
        self.told.append(("reset", slot, seed))

    def act(self, observations: Mapping[int, Any]) -> dict[int, Decision]:
        self.told.append(("act", float(observations[0][0])))
        tokens = np.array([[4, 1, 0, 0], [5, 2, 0, 0], [6, 3, 0, 0]])
        plan = Plan(tokens, np.array([[1.0], [2.0], [3.0]]), np.array([1.0, 4.5, 9.0]), np.zeros(3), 14.5)
        return {0: Decision(plan.actions[0], 14.5, plan)}

    def record(self, slot: int, action: Any, reward: float) -> None:
        self.told.append(("record", float(action[0]), reward))


def traced(length: int, warm_up: int = 2) -> tuple[PlanTrace | None, Counting, Scripted]:
    environment, policy = Counting(length), Scripted()
    trace = trace_plan(policy, environment, Spaces.plain(1, 1), DISCRETIZER, seed=7, warm_up=warm_up)
    return trace, environment, policy


def test_the_plan_after_the_warm_up_is_executed_to_its_end() -> None:
    trace, environment, policy = traced(length=100)
    assert environment.seeds == [7]
    assert environment.actions == [1.0, 1.0, 1.0, 2.0, 3.0]
    assert policy.told == [
        *(("reset", 0, 7), ("act", 0.0), ("record", 1.0, 1.0), ("act", 1.0), ("record", 1.0, 1.0), ("act", 2.0))
    ]
    assert trace is not None
    assert trace.step == 2
    np.testing.assert_array_equal(trace.actual_observations, [[2], [3], [4], [5]])
    np.testing.assert_array_equal(trace.actual_rewards, [1, 4, 9])
    np.testing.assert_array_equal(trace.predicted_observations, [[4.5], [5.5], [6.5]])
    np.testing.assert_array_equal(trace.predicted_rewards, [1, 4.5, 9])


@pytest.mark.parametrize("what", ["observation", "reward"])
def test_a_simulation_that_diverges_within_the_plan_is_told(tmp_path: Path, what: str) -> None:
    class Diverging(Counting):
        def step(self, action: Any) -> Any:
            observation, reward, *ends = super().step(action)
            if len(self.actions) == 4:
                observation, reward = (observation * np.nan, reward) if what == "observation" else (observation, np.inf)
            return observation, reward, *ends

    def diverging() -> PlanTrace | None:
        return trace_plan(Scripted(), Diverging(100), Spaces.plain(1, 1), DISCRETIZER, seed=7, warm_up=2)

    write_trace(tmp_path / "_plan.json", diverging)
    told = read_trace(tmp_path / "_plan.json")
    assert re.fullmatch(
        rf"The episode could not be played: step 4 gave the {what} .*; expected finite numbers", str(told)
    )


def test_an_episode_that_ends_within_the_plan_ends_the_execution() -> None:
    trace, environment, _ = traced(length=4)
    assert environment.actions == [1.0, 1.0, 1.0, 2.0]
    assert trace is not None
    np.testing.assert_array_equal(trace.actual_rewards, [1, 4])
    assert len(trace.predicted_rewards) == 3


def test_an_episode_that_ends_before_the_plan_has_no_trace() -> None:
    trace, environment, _ = traced(length=2)
    assert trace is None
    assert environment.actions == [1.0, 1.0]


@pytest.mark.parametrize(("context", "every", "steps"), [(0, 1, 0), (5, 1, 5), (5, 3, 6), (6, 3, 6), (1, 10, 10)])
def test_the_warm_up_fills_the_context_and_ends_where_a_plan_is_due(context: int, every: int, steps: int) -> None:
    assert warm_up_steps(context, every) == steps


def test_a_trace_is_read_as_it_was_written(tmp_path: Path) -> None:
    trace, _, _ = traced(length=4)
    write_trace(tmp_path / "row" / "_plan.json", lambda: trace)
    read = read_trace(tmp_path / "row" / "_plan.json")
    assert isinstance(read, PlanTrace)
    assert vars(read).keys() == vars(trace).keys()
    for name, value in vars(trace).items():
        np.testing.assert_array_equal(getattr(read, name), value)


def test_why_there_is_no_trace_is_written_in_its_place(tmp_path: Path) -> None:
    write_trace(tmp_path / "_plan.json", lambda: traced(length=2)[0])
    assert read_trace(tmp_path / "_plan.json") == "The episode ended before the plan was due."


def test_an_environment_that_raises_costs_the_plan_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fall(_environment: object, _action: object) -> None:
        raise ValueError("the leg fell off")

    monkeypatch.setattr(Counting, "step", fall)
    with pytest.raises(EnvironmentFaultError, match=r"^step 1 raised ValueError: the leg fell off, at "):
        traced(length=4)
    write_trace(tmp_path / "_plan.json", lambda: traced(length=4)[0])
    told = read_trace(tmp_path / "_plan.json")
    assert isinstance(told, str)
    assert told.startswith("The episode could not be played: step 1 raised ValueError: the leg fell off, at ")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"step": 1}', '{"step": 2, "other": [1]}'])
def test_a_broken_trace_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "_plan.json").write_text(content)
    with pytest.raises(StorageError, match="expected the trace of a plan"):
        read_trace(tmp_path / "_plan.json")
