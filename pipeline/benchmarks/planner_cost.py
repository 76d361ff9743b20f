"""What a call of the planner costs, counted from its setting, and what this machine could do: the roofline.

Shape letters as in `pipeline.planning.search`.
"""

from dataclasses import dataclass

import torch

from pipeline.models.block import MLP_FACTOR
from pipeline.models.config import ModelConfig
from pipeline.planning.config import PlanningConfig
from pipeline.timing import best_seconds, product_flops
from pipeline.tokens.layout import TransitionLayout


@dataclass(frozen=True)
class PlanCost:
    """The work of one call, with an exact cache and a window that does not slide.

    Attributes:
        steps: Passes that depend on each other.
        rows: Tokens of beams and copies that go through the model one by one.
        row_keys: Keys that those rows meet, summed.
        flops: Floating-point operations of all products: the least that any such planner does.
        bytes: Bytes read: weights once per step, and each beam's planned keys and values once per step. Less is read
            where beams that share a past share it in memory too, as on a CPU.
    """

    steps: int
    rows: int
    row_keys: int
    flops: float
    bytes: float


def plan_cost(
    model: ModelConfig,
    layout: TransitionLayout,
    planning: PlanningConfig,
    episodes: int = 1,
    searches: int = 1,
    itemsize: int = 4,
) -> PlanCost:
    """Counts a call with full contexts.

    Args:
        model: Its shape.
        layout: Its transitions.
        planning: The search.
        episodes: Planned for in the call.
        searches: One after the other, among which the episodes are shared out.
        itemsize: Bytes of a weight, a key or a value.
    """
    block, copies, beams = layout.transition_dim - 1, planning.expansion_factor, planning.beam_width
    weights = 4 * model.width**2 + 2 * MLP_FACTOR * model.width**2
    per_row = 2 * (weights * model.layers + model.width * layout.vocabulary_size)
    context = planning.context_transitions * block
    prefill = context + layout.observation_dim
    steps, rows, row_keys, own_keys = 1, 0, 0, 0
    for step in range(planning.horizon):
        tokens = [(dimension + 1, beams * copies) for dimension in range(layout.action.start, layout.reward + 1)]
        if step < planning.horizon - 1:
            tokens += [(block, beams)] + [(block + i + 1, beams) for i in range(layout.observation_dim)]
        for own, batch in tokens:
            keys = step * block + own
            steps, rows = steps + 1, rows + batch
            row_keys += batch * (context + keys)
            own_keys += beams * keys
    flops = per_row * (rows + prefill) + 4 * model.width * model.layers * (row_keys + prefill**2 / 2)
    numbers = searches * steps * per_row / 2 + episodes * own_keys * 2 * model.width * model.layers
    return PlanCost(searches * steps, episodes * rows, episodes * row_keys, episodes * flops, itemsize * numbers)


@dataclass(frozen=True)
class MachineRates:
    """What the machine does at best: FLOP/s of large products, bytes/s of copies too large for its caches."""

    flops: float
    bytes: float


def measured_rates(device: torch.device, dtype: torch.dtype) -> MachineRates:
    """Measures a square product and a copy, the best of a few runs each."""
    numbers = torch.ones(2**26 if device.type == "cpu" else 2**30, device=device, dtype=torch.float32)
    target = torch.empty_like(numbers)
    return MachineRates(
        flops=product_flops(device, dtype),
        bytes=2 * numbers.numel() * 4 / best_seconds(lambda: target.copy_(numbers), device),
    )


def roofline_shares(cost: PlanCost, rates: MachineRates, seconds: float, device: torch.device) -> dict[str, float]:
    """Returns which shares of `seconds` the products alone and the reads alone would take, and the larger of the two.

    On a CPU the products alone are the bound: the planner reads less than is counted.
    """
    flops, reads = cost.flops / rates.flops / seconds, cost.bytes / rates.bytes / seconds
    return {
        "flop_share": flops,
        "byte_share": reads,
        "roofline_share": flops if device.type == "cpu" else max(flops, reads),
    }
