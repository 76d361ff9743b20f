"""How actions go into a network and come out of one, for the action spaces that a data set can have.

A continuous action is the network's own when it lies in [-1, 1]: the bounds of its space are mapped to that going in,
and back coming out. An action space without bounds is left as it is. A discrete action is one column that holds the
index of the choice.

Shape letters: A action_dim, C choices, W width; `...` batch and time.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.spaces import Spaces


class ActionBounds(nn.Module):
    """Maps between actions in the space's own unit and [-1, 1], column by column.

    A column whose bounds are equal has one action only, which is 0 inside. Where actions are whole numbers each has as
    much of [-1, 1] as any other: what is mapped are the numbers that are rounded to one of them, from half a number
    below the lower bound to half a number above the upper one. The bounds are the data set's and thus not stored with
    the weights.

    Args:
        spaces: With both bounds of each action column.
    """

    low: Tensor
    high: Tensor
    centre: Tensor
    half_range: Tensor

    def __init__(self, spaces: Spaces) -> None:
        super().__init__()
        low, high = (torch.tensor(bounds, dtype=torch.float64) for bounds in (spaces.action_low, spaces.action_high))
        if spaces.has_whole_actions:
            low, high = low - 0.5, high + 0.5
        half_range = (high - low) / 2
        half_range[half_range == 0] = 1
        buffers = {"low": low, "high": high, "centre": (low + high) / 2, "half_range": half_range}
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer.float(), persistent=False)

    def inside(self, actions: Tensor) -> Tensor:
        """Returns (..., A) in [-1, 1] of `actions` in the space's unit."""
        return (actions - self.centre) / self.half_range

    def outside(self, actions: Tensor) -> Tensor:
        """Returns (..., A) in the space's unit of `actions` in [-1, 1]; rounding leads to none beyond the ends."""
        return (self.centre + self.half_range * actions).clamp(self.low, self.high)

    def errors(self, predicted: Tensor, actions: Tensor) -> Tensor:
        """Returns (..., A), the differences of actions in the space's unit, where half the range of a column is 1."""
        return (predicted - actions) / self.half_range


def _bounds(spaces: Spaces) -> ActionBounds | None:
    bounded = spaces.action_kind == "box" and spaces.action_low is not None and spaces.action_high is not None
    return ActionBounds(spaces) if bounded else None


class ActionEmbedding(nn.Module):
    """One row of width W for each action.

    Continuous: a linear layer of the action, mapped to [-1, 1] where the space has bounds. Discrete: one row of a
    learned table for each choice. Both start as torch makes them.

    Args:
        spaces: Kind, columns and bounds of actions.
        width: W.
    """

    embedding: nn.Linear | nn.Embedding

    def __init__(self, spaces: Spaces, width: int) -> None:
        super().__init__()
        self.bounds = _bounds(spaces)
        self.choices = spaces.action_choices
        if self.choices is None:
            self.embedding = nn.Linear(spaces.action_dim, width)
        else:
            self.embedding = nn.Embedding(self.choices, width)

    def forward(self, actions: Tensor) -> Tensor:
        """Returns (..., W).

        Args:
            actions: (..., A) in the space's unit; of a discrete action, the index of the choice, of any type.
        """
        if self.choices is not None:
            actions = actions[..., 0].long()
        elif self.bounds is not None:
            actions = self.bounds.inside(actions)
        embedded: Tensor = self.embedding(actions)
        return embedded


class ActionHead(nn.Module):
    """Predicts the action from a row of width W.

    Continuous: `tanh` of a linear layer, mapped to the bounds of the space; without bounds, the linear layer alone.
    Discrete: logits of the choices. It starts as torch makes it.

    Args:
        spaces: Kind, columns and bounds of actions.
        width: W.
    """

    def __init__(self, spaces: Spaces, width: int) -> None:
        super().__init__()
        self.bounds = _bounds(spaces)
        self.choices = spaces.action_choices
        self.linear = nn.Linear(width, spaces.action_dim if self.choices is None else self.choices)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (..., A) actions in the space's unit, or (..., C) logits, from `x` (..., W); float32 at least."""
        y = _float32_at_least(self.linear(x))
        return y if self.bounds is None else self.bounds.outside(torch.tanh(y))

    def action_errors(self, predicted: Tensor, actions: Tensor) -> Tensor:
        """Returns how wrong each prediction is, of which a loss is the mean; float32 at least.

        Continuous: (..., A), the squared difference, where half the range between the bounds is 1 (for bounds of -1
        and 1, and for a space without bounds, the plain squared difference). Discrete: (..., 1), `-log p(choice)`.

        Args:
            predicted: What `forward` returned.
            actions: (..., A) of the data; of a discrete action, the index of the choice.
        """
        predicted = _float32_at_least(predicted)
        if self.choices is not None:
            choices = actions[..., 0].long().flatten()
            losses = functional.cross_entropy(predicted.flatten(0, -2), choices, reduction="none")
            return losses.view(actions.shape)
        errors = predicted - actions if self.bounds is None else self.bounds.errors(predicted, actions)
        return errors.square()


def _float32_at_least(x: Tensor) -> Tensor:
    """Undoes what automatic casting to half precision does to a network's output."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
