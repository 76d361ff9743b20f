"""One plan put to the test: what it predicts against what happens when it is executed to its end.

Shape letters: O observation_dim, A action_dim, H horizon, h <= H steps that the environment made.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.data.spaces import Spaces
from pipeline.errors import EvaluationError
from pipeline.evaluation.rollout import Environment
from pipeline.planning.policies import Policy
from pipeline.reporting.figures import Drawing, canvas, drawing, styled
from pipeline.reporting.methods import DATA, colours
from pipeline.tokens.discretizer import Discretizer

T = TypeVar("T")
PANELS = 6
ACTUAL, PLANNER_COLOUR = (colours(())[name] for name in (DATA, "trajectory_transformer"))


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
) -> PlanTrace | None:
    """Acts for `warm_up` steps, then executes the next plan's actions without planning again.

    Args:
        policy: A planner; its slot 0 is used.
        environment: Of the data's spaces.
        spaces: Of the data.
        discretizer: Of the model.
        seed: Of the environment's reset and of the plan's random numbers.
        warm_up: Steps before the plan, a multiple of planning.plan_every.

    Returns:
        None where the episode ends before the plan.

    Raises:
        EvaluationError: The environment raised.
        DataError: It gave a number that is not finite.
    """
    layout = discretizer.layout
    policy.reset(0, seed)
    raw, _ = _answer(partial(environment.reset, seed=seed))
    observation = spaces.flatten_observation(raw)
    for _ in range(warm_up):
        action = policy.act({0: observation})[0].action
        raw, reward, terminated, truncated, _ = _answer(partial(environment.step, spaces.environment_action(action)))
        if terminated or truncated:
            return None
        policy.record(0, action, float(reward))
        observation = spaces.flatten_observation(raw)
    plan = policy.act({0: observation})[0].plan
    assert plan is not None, "a plan is due at multiples of plan_every"
    observations, rewards = [observation], []
    for action in plan.actions:
        raw, reward, terminated, truncated, _ = _answer(partial(environment.step, spaces.environment_action(action)))
        observations.append(spaces.flatten_observation(raw))
        rewards.append(float(reward))
        if terminated or truncated:
            break
    predicted = discretizer.decode_columns(plan.tokens[:, layout.observation], layout.observation)
    return PlanTrace(warm_up, predicted, plan.rewards, np.stack(observations), np.array(rewards))


def _answer(call: Callable[[], T]) -> T:
    try:
        return call()
    except Exception as error:  # whatever an environment raises must not cost the whole report
        raise EvaluationError(f"the environment raised {type(error).__name__}: {error}") from error


def warm_up_steps(context_transitions: int, plan_every: int) -> int:
    """Returns after how many steps the context is full and a plan is due."""
    return math.ceil(context_transitions / plan_every) * plan_every


@styled
def plan_plot(trace: PlanTrace, names: Sequence[str], deviations: Sequence[float]) -> Drawing:
    """Predicted and actual observations and rewards over the planned steps.

    Args:
        trace: The plan.
        names: One name per observation dimension.
        deviations: Standard deviation in the data of each observation dimension, and of the reward, which is the last.
            The dimensions that move most in these units are drawn.
    """
    horizon = len(trace.predicted_rewards)
    moved = np.ptp(trace.actual_observations, axis=0) / np.maximum(deviations[: len(names)], 1e-12)
    panels = [
        (names[i], trace.actual_observations[:horizon, i], trace.predicted_observations[:, i], deviations[i])
        for i in sorted(np.argsort(-moved, kind="stable")[: PANELS - 1].tolist())
    ]
    panels.append(("reward", trace.actual_rewards, trace.predicted_rewards, deviations[-1]))
    lines = math.ceil(len(panels) / 2)
    figure, axes = canvas(0.8 + 1.15 * lines, lines, 2)
    for ax, (name, actual, predicted, deviation) in zip(axes, panels, strict=False):
        _panel(ax, actual, predicted, deviation)
        ax.set_title(name)
    for ax in axes[len(panels) - 2 : len(panels)]:
        ax.set_xlabel("steps after the plan")
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=2)
    return drawing(
        figure,
        "Predicted and actual trajectory",
        f"Predicted and actual observations and rewards of one plan of {horizon} steps.",
        "The dimensions that moved most, in units of their deviation in the data. Predictions are centres of bins.",
    )


def _panel(ax: Axes, actual: NDArray[np.float64], predicted: NDArray[np.float64], deviation: float) -> None:
    ax.plot(range(len(actual)), actual, color=ACTUAL, marker="o", markersize=3, label="actual")
    ax.plot(range(len(predicted)), predicted, color=PLANNER_COLOUR, marker="o", markersize=3, label="predicted")
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    # At least one deviation high: a difference that is nothing in the data's terms must not fill the panel.
    low, high = ax.get_ylim()
    margin = max(0.0, (deviation or 1.0) - (high - low)) / 2
    ax.set_ylim(low - margin, high + margin)
