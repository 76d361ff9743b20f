"""Compares plans made alone with the same plans made beside others, over many shapes; prints how many differ.

`python -m tests.planning.slots`
"""

import dataclasses
import itertools

import numpy as np
import torch

from pipeline.acting import Plan
from pipeline.planning.beam import BeamPlanner, PlanRequest
from pipeline.planning.config import PlanningConfig
from pipeline.tokens.layout import TransitionLayout
from tests.planning.scenes import random_discretizer, random_model, request

LAYOUT = TransitionLayout.plain(5, 2, num_bins=20)
WIDTHS = {"float32": (8, 16, 32, 48, 64, 96, 128), "bfloat16": (16, 64, 128)}
BEAMS = {"float32": (1, 3, 16, 17, 40), "bfloat16": (1, 17)}
SLOTS = (3, 10)
PLANS = 2 * 3 * sum(len(WIDTHS[precision]) * len(BEAMS[precision]) for precision in WIDTHS)
HORIZON = 3


def main() -> None:
    """Prints one line for each difference, and last `N plans, N differ`."""
    plans, differing = 0, 0
    for precision, widths in WIDTHS.items():
        shapes = itertools.product(widths, BEAMS[precision])
        # The window of every other search is too short and slides.
        for (width, beams), window in zip(shapes, itertools.cycle((HORIZON, HORIZON + 2)), strict=False):
            for slots, slot, alike in _compared(width, beams, window, precision):
                plans += 1
                differing += not alike
                if not alike:
                    print(f"differs: {precision}, {width} wide, {beams} beams, window {window}, slot {slot} of {slots}")
    print(f"{plans} plans, {differing} differ")


def _compared(width: int, beams: int, window: int, precision: str):
    """Yields slots, slot and whether a plan made there is that of a planner with one slot."""
    config = PlanningConfig(
        beam_width=beams, horizon=HORIZON, context_transitions=2, precision=precision, cdf_act=0.9, k_obs=2
    )
    scale = 0.4 if width < 64 else 0.2
    model = random_model(window, torch.float32, LAYOUT, heads=2 if width < 64 else 4, width=width, scale=scale)
    discretizer = random_discretizer(LAYOUT)
    wanted, *others = (
        request(config, seed, transitions, LAYOUT) for seed, transitions in enumerate((1, 0, 2, 2, 1, 2, 0, 1, 2, 1))
    )
    alone = BeamPlanner(model, discretizer, config, 1).plan([wanted])[0]
    for slots in SLOTS:
        planner = BeamPlanner(model, discretizer, config, slots)
        for slot in (0, slots // 2, slots - 1):
            batch: list[PlanRequest | None] = [*others[:slot], wanted, *others[slot : slots - 1]]
            yield slots, slot, _alike(alone, planner.plan(batch)[slot])


def _alike(one: Plan | None, other: Plan | None) -> bool:
    assert one is not None
    assert other is not None
    return all(np.array_equal(part, getattr(other, name)) for name, part in dataclasses.asdict(one).items())


if __name__ == "__main__":
    main()
