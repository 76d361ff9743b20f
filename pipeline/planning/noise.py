"""The random numbers of one plan: every uniform that its sampling will ask for, made before it begins.

They depend on the episode's seed and its environment step alone, so a plan is the same in any slot, beside any
neighbours and on any device; the slow reference planner and the fast one consume the same numbers.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.planning.config import PlanningConfig
from pipeline.seeding import stream
from pipeline.tokens.layout import TransitionLayout

_RESOLUTION = 1 << 24
"""Uniforms are multiples of 2^-24 below 1, so that float32 and float64 hold the same numbers."""


@dataclass(frozen=True)
class Noise:
    """Uniforms in [0, 1), float32.

    Attributes:
        actions: (H, K, X, A) by planned step, place in the beam, copy, and action dimension.
        observations: (H - 1, K, O); (0,) where observations are greedy and need none.
    """

    actions: NDArray[np.float32]
    observations: NDArray[np.float32]


def plan_noise(config: PlanningConfig, layout: TransitionLayout, seed: int, step: int) -> Noise:
    """Returns the uniforms of the plan that the episode of `seed` makes at environment step `step`."""
    generator = stream(seed, "plan", step)
    actions, observations = _shapes(config, layout)
    return Noise(_uniforms(generator, actions), _uniforms(generator, observations))


def no_noise(config: PlanningConfig, layout: TransitionLayout) -> Noise:
    """Returns zeros of the same shapes, for slots in which no episode runs."""
    actions, observations = _shapes(config, layout)
    return Noise(np.zeros(actions, dtype=np.float32), np.zeros(observations, dtype=np.float32))


def _shapes(config: PlanningConfig, layout: TransitionLayout) -> tuple[tuple[int, ...], tuple[int, ...]]:
    actions = (config.horizon, config.beam_width, config.expansion_factor, layout.action_dim)
    observations = (config.horizon - 1, config.beam_width, layout.observation_dim)
    return actions, observations if config.k_obs != 1 else (0,)


def _uniforms(generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    integers = generator.integers(_RESOLUTION, size=shape, dtype=np.uint32)
    return integers.astype(np.float32) / np.float32(_RESOLUTION)
