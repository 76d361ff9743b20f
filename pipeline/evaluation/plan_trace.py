"""One plan put to the test: what it predicts against what happens when it is executed to its end.

Shape letters: O observation_dim, A action_dim, H horizon, h <= H steps that the environment made.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.acting import Policy
from pipeline.configuration import write_text_atomically
from pipeline.data.spaces import Spaces
from pipeline.errors import PipelineError, StorageError
from pipeline.evaluation.rollout import Environment, require_finite
from pipeline.live_episode import LiveEpisode
from pipeline.stored import read_bytes, sealed, unsealed
from pipeline.tokens.discretizer import Discretizer

NAME = "_plan.json"
"""Of the trace in a row's folder of episodes; hidden from readers of these by the underscore."""


@dataclass(frozen=True)
class PlanTrace:
    """A plan and its execution.

    Attributes:
        step: Environment step at which it was made.
        predicted_observations: (H, O) centres of the plan's tokens, the first row the current one.
        predicted_rewards: (H,) estimates.
        actual_observations: (h + 1, O), the first row the current one.
        actual_rewards: (h,); h < H where the episode ended.
    """

    step: int
    predicted_observations: NDArray[np.float64]
    predicted_rewards: NDArray[np.float64]
    actual_observations: NDArray[np.float64]
    actual_rewards: NDArray[np.float64]


def trace_plan(
    policy: Policy,
    environment: Environment,
    spaces: Spaces,
    discretizer: Discretizer,
    seed: int,
    warm_up: int,
    delay_rewards: bool = False,
) -> PlanTrace | None:
    """Acts for `warm_up` steps, then executes the next plan's actions without planning again.

    Args:
        policy: A planner; its slot 0 is used.
        environment: Of the data's spaces.
        spaces: Of the data.
        discretizer: Of the model.
        seed: Of the environment's reset and of the plan's random numbers.
        warm_up: Steps before the plan, a multiple of planning.plan_every.
        delay_rewards: The policy is told no reward, as its data had none before the end.

    Returns:
        None where the episode ends before the plan.

    Raises:
        EnvironmentFaultError: The environment raised, or gave what Gymnasium does not foresee.
        DataError: The policy was given a NaN.
    """
    layout = discretizer.layout
    policy.reset(0, seed)
    live = LiveEpisode(environment, spaces)
    live.reset(seed)
    for _ in range(warm_up):
        action = policy.act({0: live.columns})[0].action
        step = live.step(action)
        if step.terminated or step.truncated:
            return None
        policy.record(0, action, 0.0 if delay_rewards else step.reward)
    require_finite("the plan begins with the observation", live.columns)
    plan = policy.act({0: live.columns})[0].plan
    assert plan is not None, "a plan is due at multiples of plan_every"
    observations, rewards = [live.columns], []
    for action in plan.actions:
        step = live.step(action)
        require_finite(f"step {live.steps} gave the observation", live.columns)
        require_finite(f"step {live.steps} gave the reward", step.reward)
        observations.append(live.columns)
        rewards.append(step.reward)
        if step.terminated or step.truncated:
            break
    predicted = discretizer.decode_columns(plan.tokens[:, layout.observation], layout.observation)
    return PlanTrace(warm_up, predicted, plan.rewards, np.stack(observations), np.array(rewards))


def warm_up_steps(context_transitions: int, plan_every: int) -> int:
    """Returns after how many steps the context is full and a plan is due."""
    return math.ceil(context_transitions / plan_every) * plan_every


def write_trace(path: Path, trace: Callable[[], PlanTrace | None]) -> None:
    """Writes what `trace` gives, or in words why there is none, which does not end the evaluation.

    Args:
        path: Where to; a folder that is missing is made.
        trace: Makes it; None where the episode ended before the plan.
    """
    try:
        made = trace()
    except PipelineError as error:
        content: dict[str, Any] = {"missing": f"The episode could not be played: {error}"}
    else:
        content = {"missing": "The episode ended before the plan was due."} if made is None else _plain(made)
    write_text_atomically(path, sealed(content))


def _plain(trace: PlanTrace) -> dict[str, Any]:
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(trace).items()}


def read_trace(path: Path) -> PlanTrace | str:
    """Returns the trace that `write_trace` wrote, or in words why there is none.

    Raises:
        StorageError: The file is not one of these.
    """
    try:
        content = unsealed(read_bytes(path))
        if "missing" in content:
            return str(content["missing"])
        arrays = {name: np.array(value) for name, value in content.items() if isinstance(value, list)}
        return PlanTrace(step=content["step"], **arrays)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StorageError(
            f"{path} is not readable ({error}); expected the trace of a plan. Remove it and run jobs/evaluate.py again."
        ) from error
