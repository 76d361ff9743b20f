"""The loss of methods that predict the action of each step: behaviour cloning and the Decision Transformer.

    loss = sum over real steps and action columns of the error / number of these

The error of a continuous action is the squared difference, where half the range of its column is 1; that of a discrete
one the cross-entropy. Steps beyond the end of an episode are left out before the mean is taken.

Shape letters: B windows, W steps of a window, A action_dim, C choices.

Source: the released gym code of the Decision Transformer, and its Atari code for discrete actions.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.data.table import ACTIONS
from pipeline.models.actions import ActionHead
from pipeline.training.windows import Windows


class ActionObjective:
    """See the module, and `pipeline.training.objective.Objective`.

    Args:
        model: Ends with an `action_head`; on the device that trains.
        inputs: Returns what the model is called with for some windows.
        flops_per_window: What the training needs for one window, forward and backward.
    """

    def __init__(self, model: nn.Module, inputs: Callable[[Windows], tuple[Any, ...]], flops_per_window: float) -> None:
        head = model.action_head
        assert isinstance(head, ActionHead)
        self.model, self._head, self._inputs = model, head, inputs
        self.flops_per_window = flops_per_window
        self.measures: tuple[str, ...] = ("loss",) if head.choices is None else ("loss", "accuracy_action")

    def counted(self, batch: Windows) -> Tensor:
        """Returns the number of real steps, times the action's columns."""
        return (batch.real.sum() * batch[ACTIONS].shape[2]).float()

    def __call__(self, forward: nn.Module, batch: Windows) -> tuple[Tensor, Tensor]:
        """Returns the sum of the errors, and the measures' sums and counts."""
        predicted, actions_BWA = forward(*self._inputs(batch)), batch[ACTIONS]
        errors_BWA = self._head.action_errors(predicted, actions_BWA).masked_fill(~batch.real[:, :, None], 0.0)
        loss = errors_BWA.sum()
        with torch.no_grad():
            sums = [torch.stack([errors_BWA.double().sum(), self.counted(batch).double()])]
            if self._head.choices is not None:
                right_BW = (predicted.argmax(-1) == actions_BWA[..., 0]) & batch.real
                sums.append(torch.stack([right_BW.sum().double(), batch.real.sum().double()]))
        return loss, torch.stack(sums)
