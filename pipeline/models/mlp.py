"""Behaviour cloning's network without a memory: one observation in, the action out.

The loss and acting are in `pipeline.methods`.

Shape letters: A action_dim, C choices, O observation_dim; `...` batch and time.
"""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.spaces import Spaces
from pipeline.models.actions import ActionHead
from pipeline.models.dropout import Dropout


class MlpShape(Protocol):
    """What the network is built from: `layers` hidden ones of `width` each, `dropout` from 0 to below 1."""

    @property
    def layers(self) -> int: ...  # noqa: D102
    @property
    def width(self) -> int: ...  # noqa: D102
    @property
    def dropout(self) -> float: ...  # noqa: D102


class ActionMlp(nn.Module):
    """Predicts the action of one observation: `layers` times a linear layer, ReLU and dropout, then the head.

    Source: the network of behaviour cloning in the Decision Transformer's released gym code. Deviation: that one sees
    20 stacked observations, this one the current one alone, which is enough where the environment is Markov.

    Args:
        shape: Hidden layers (3 there), their width, dropout (0.1 there).
        spaces: Columns of observations; kind, columns and bounds of actions.
        observation_mean: (O,) of the training data.
        observation_deviation: (O,), above 0: what observations are divided by. Both are stored with the weights.
    """

    observation_mean: Tensor
    observation_deviation: Tensor

    def __init__(
        self, shape: MlpShape, spaces: Spaces, observation_mean: ArrayLike, observation_deviation: ArrayLike
    ) -> None:
        super().__init__()
        scale = {"observation_mean": observation_mean, "observation_deviation": observation_deviation}
        for name, numbers_O in scale.items():
            self.register_buffer(name, torch.tensor(np.asarray(numbers_O), dtype=torch.float32))
        widths = [spaces.observation_dim] + [shape.width] * (shape.layers - 1)
        self.hidden = nn.ModuleList(nn.Linear(width, shape.width) for width in widths)
        self.dropout = Dropout(shape.dropout)
        self.action_head = ActionHead(spaces, shape.width)

    def forward(self, observations: Tensor) -> Tensor:
        """Returns (..., A) actions or (..., C) logits of `observations` (..., O), as the environment gives them."""
        x = (observations - self.observation_mean) / self.observation_deviation
        for linear in self.hidden:
            x = self.dropout(functional.relu(linear(x)))
        predicted: Tensor = self.action_head(x)
        return predicted
