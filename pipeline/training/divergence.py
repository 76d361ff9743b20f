"""Tells a run that learns from one that has blown up."""

import math
import statistics
from collections.abc import Sequence

RECENT_LINES = 10
"""Lines of metrics that a jump is measured against."""

MIN_RISE = 0.05
"""In the loss's own unit: near zero, where data is deterministic, a loss of many times the usual one is no jump."""


def divergence(loss: float | None, gradient_norm: float, recent: Sequence[float], spike_factor: float | None) -> str:
    """Returns why the run should stop, "" if it should not.

    A run has diverged when its loss or its gradient norm is not finite, or when its loss is more than `spike_factor`
    times the median of the recent losses (at least three) and more than MIN_RISE above it.

    Args:
        loss: Mean loss since the last report; None where no target counted.
        gradient_norm: Mean norm since the last report.
        recent: Losses of the last reports, oldest first.
        spike_factor: Above 1; None never takes a jump for divergence.
    """
    if loss is not None and not math.isfinite(loss):
        return f"the loss is {loss}"
    if not math.isfinite(gradient_norm):
        return f"the gradient norm is {gradient_norm}"
    if loss is None or spike_factor is None or len(recent) < 3:
        return ""
    usual = statistics.median(recent[-RECENT_LINES:])
    if loss > max(spike_factor * usual, usual + MIN_RISE):
        return f"the loss rose to {loss:.4g}, more than {spike_factor:g} times its recent {usual:.4g}"
    return ""
