"""Small models with random weights, and requests for plans, for the planner's tests."""

import numpy as np
import torch

from pipeline.models.config import ModelConfig
from pipeline.models.trajectory_transformer import TrajectoryTransformer
from pipeline.planning.beam import PlanRequest
from pipeline.planning.config import PlanningConfig
from pipeline.planning.noise import plan_noise
from pipeline.tokens.discretizer import Discretizer
from pipeline.tokens.layout import TransitionLayout

LAYOUT = TransitionLayout(3, 2, 7, (7, 5, 7, 6, 7, 7, 7), ("x", "y", "z"))


def random_model(
    window: int,
    dtype: torch.dtype = torch.float64,
    layout: TransitionLayout = LAYOUT,
    heads: int = 2,
    width: int = 16,
    scale: float = 0.4,
    positions: str = "learned",
):
    """Returns a model whose every parameter matters: positions, biases and norms are random too."""
    shape = {"heads": heads, "width": width, "window_transitions": window, "positions": positions}
    config = ModelConfig(layers=2, dropout=0.0, **shape)
    generator = torch.Generator().manual_seed(3)
    model = TrajectoryTransformer(config, layout).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def random_discretizer(layout: TransitionLayout = LAYOUT) -> Discretizer:
    edges = np.sort(np.random.default_rng(4).normal(size=(layout.transition_dim, layout.num_bins + 1)), axis=1)
    return Discretizer(layout, edges)


def request(config: PlanningConfig, seed: int, transitions: int, layout: TransitionLayout = LAYOUT) -> PlanRequest:
    """Returns what an episode asks for at step `transitions`, with random tokens that its dimensions have."""
    generator = np.random.default_rng(seed)
    context = generator.integers(layout.bins, size=(transitions, layout.transition_dim))
    observation = generator.integers(layout.bins[layout.observation])
    return PlanRequest(context, observation, plan_noise(config, layout, seed, step=transitions))
