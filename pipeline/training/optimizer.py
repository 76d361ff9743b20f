"""AdamW, with weight decay on matrices alone or on everything."""

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.training.config import TrainingConfig


def decayed_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Returns the parameters with and without weight decay.

    Decayed: everything of two or more dimensions that multiplies an input (linear layers, the heads). Not decayed:
    biases, layer norms, token embeddings and positions, whose rows are looked up and not multiplied.
    """
    looked_up = {id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    with_decay: list[nn.Parameter] = []
    without: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim >= 2 and id(parameter) not in looked_up and "position" not in name
        (with_decay if matrix else without).append(parameter)
    return with_decay, without


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Returns the fused AdamW of `config` over the parameters of `model`."""
    with_decay, without = decayed_parameters(model)
    if config.weight_decay_of == "everything":
        with_decay, without = list(model.parameters()), []
    groups: list[dict[str, Any]] = [
        {"params": with_decay, "weight_decay": config.weight_decay},
        {"params": without, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float | Tensor) -> None:
    """Sets the learning rate of every group.

    Args:
        optimizer: AdamW.
        learning_rate: A number, or a scalar on the device where a CUDA graph is to read it at every step.
    """
    for group in optimizer.param_groups:
        # A checkpoint brings both from the device that wrote it.
        group["lr"], group["capturable"] = learning_rate, isinstance(learning_rate, Tensor)
