"""Draws one plan put to the test (`pipeline.evaluation.plan_trace`)."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.evaluation.plan_trace import PlanTrace
from pipeline.reporting.figures import Drawing, canvas, drawing, styled
from pipeline.reporting.methods import DATA, colours

PANELS = 6
ACTUAL, PLANNER_COLOUR = (colours(())[name] for name in (DATA, "trajectory_transformer"))


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
