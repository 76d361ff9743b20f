"""What a plan costs at least, counted from its setting, and what this machine could do: the roofline.

Shape letters as in `pipeline.planning.search`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from pipeline.models.block import MLP_FACTOR
from pipeline.models.config import ModelConfig
from pipeline.planning.config import PlanningConfig
from pipeline.tokens.layout import TransitionLayout

Result = TypeVar("Result")


@dataclass(frozen=True)
class PlanCost:
    """The least work of one episode's plan, with an exact cache and a window that does not slide.

    Attributes:
        steps: Passes that depend on each other.
        rows: Tokens of beams and copies that go through the model one by one.
        row_keys: Keys that those rows meet, summed.
        flops: Floating-point operations of all products.
        bytes: Bytes read: weights once per step, and each beam's planned keys and values once per step, float32.
    """

    steps: int
    rows: int
    row_keys: int
    flops: float
    bytes: float


def plan_cost(model: ModelConfig, layout: TransitionLayout, planning: PlanningConfig) -> PlanCost:
    """Counts a plan with a full context."""
    block, copies, beams = layout.transition_dim - 1, planning.expansion_factor, planning.beam_width
    weights = 4 * model.width**2 + 2 * MLP_FACTOR * model.width**2
    per_row = 2 * (weights * model.layers + model.width * layout.vocabulary_size)
    context = planning.context_transitions * block
    prefill = context + layout.observation_dim
    steps, rows, row_keys, own_bytes = 1, 0, 0, 0.0
    for step in range(planning.horizon):
        tokens = [(dimension + 1, beams * copies) for dimension in range(layout.action.start, layout.reward + 1)]
        if step < planning.horizon - 1:
            tokens += [(block, beams)] + [(block + i + 1, beams) for i in range(layout.observation_dim)]
        for own, batch in tokens:
            keys = step * block + own
            steps, rows = steps + 1, rows + batch
            row_keys += batch * (context + keys)
            own_bytes += beams * keys * 2 * model.width * 4 * model.layers
    flops = per_row * (rows + prefill) + 4 * model.width * model.layers * (row_keys + prefill**2 / 2)
    return PlanCost(steps, rows, row_keys, flops, own_bytes + steps * 4 * per_row / 2)


@dataclass(frozen=True)
class MachineRates:
    """What the machine does at best: FLOP/s of large products, bytes/s of copies too large for its caches."""

    flops: float
    bytes: float


def measured_rates(device: torch.device, dtype: torch.dtype) -> MachineRates:
    """Measures a square product and a copy, the best of a few runs each."""
    size = 1024 if device.type == "cpu" else 8192
    matrix = torch.ones(size, size, device=device, dtype=dtype)
    numbers = torch.ones(2**26 if device.type == "cpu" else 2**30, device=device, dtype=torch.float32)
    target = torch.empty_like(numbers)
    return MachineRates(
        flops=2 * size**3 / _best_seconds(lambda: matrix @ matrix, device),
        bytes=2 * numbers.numel() * 4 / _best_seconds(lambda: target.copy_(numbers), device),
    )


def _best_seconds(function: Callable[[], object], device: torch.device) -> float:
    return min(timed(function, device)[0] for _ in range(6))


def timed(function: Callable[[], Result], device: torch.device) -> tuple[float, Result]:
    """Returns how long `function` took, and its result; a GPU is waited for on both sides."""
    _wait(device)
    started = time.perf_counter()
    result = function()
    _wait(device)
    return time.perf_counter() - started, result


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def roofline_seconds(cost: PlanCost, rates: MachineRates) -> float:
    """Returns the seconds that the products or the reads alone would take, whichever is more."""
    return max(cost.flops / rates.flops, cost.bytes / rates.bytes)
