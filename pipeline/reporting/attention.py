"""Reads a model's attention weights out, which its fused attention never shows, and draws them.

Shape letters: B batch, L tokens, H heads, D embedding width, d = D / H.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.models.block import Block, SelfAttention
from pipeline.models.trajectory_transformer import TrajectoryTransformer
from pipeline.reporting.figures import Drawing, canvas, drawing, styled

ATTENTION_MAP = LinearSegmentedColormap.from_list("attention", ["#f3f5f8", "#3f6fd8", "#16285a"])


@torch.no_grad()
def attention_weights(
    model: TrajectoryTransformer, tokens_L: NDArray[Any], layers: Sequence[int]
) -> dict[int, NDArray[np.float32]]:
    """Returns each layer's `softmax(Q K^T / sqrt(d))` under the model's mask, (H, L, L), rows are queries.

    Args:
        model: In eval mode.
        tokens_L: One window of at most `model.max_inputs` tokens, the first of observation dimension 0.
        layers: Which layers, from 0.
    """
    inputs: dict[int, tuple[Tensor, Tensor]] = {}
    attentions = {layer: _attention(model, layer) for layer in layers}
    hooks = [module.register_forward_pre_hook(partial(_keep, inputs, layer)) for layer, module in attentions.items()]
    try:
        model(torch.as_tensor(tokens_L.astype(np.int64))[None])
    finally:
        for hook in hooks:
            hook.remove()
    return {layer: _weights(attentions[layer], *inputs[layer]).numpy() for layer in layers}


def _keep(
    inputs: dict[int, tuple[Tensor, Tensor]], layer: int, _module: nn.Module, arguments: tuple[Tensor, Tensor]
) -> None:
    inputs[layer] = arguments


def _attention(model: TrajectoryTransformer, layer: int) -> SelfAttention:
    block = model.blocks[layer]
    assert isinstance(block, Block)
    return block.attention


def _weights(attention: SelfAttention, x_BLD: Tensor, mask_LL: Tensor) -> Tensor:
    """Returns (H, L, L) of the first row of the batch."""
    _, length, width = x_BLD.shape
    head_width = width // attention.heads
    qkv = attention.qkv(x_BLD[:1]).view(length, 3, attention.heads, head_width)
    q_HLd, k_HLd, _ = qkv.permute(1, 2, 0, 3)
    scores_HLL = q_HLd @ k_HLd.transpose(1, 2) / math.sqrt(head_width)
    weights_HLL: Tensor = scores_HLL.masked_fill(~mask_LL, -torch.inf).softmax(dim=-1)
    return weights_HLL


@styled
def attention_plot(weights: Mapping[int, NDArray[np.float32]], transition_dim: int) -> Drawing:
    """One row of maps for each layer, one column for each head."""
    heads = next(iter(weights.values())).shape[0]
    figure, axes = canvas(0.5 + len(weights) * min(1.9, 4.6 / heads + 0.15), rows=len(weights), columns=heads)
    for i, (layer, maps_HLL) in enumerate(weights.items()):
        for head, (ax, map_LL) in enumerate(zip(axes[i * heads : (i + 1) * heads], maps_HLL, strict=True)):
            ax.imshow(map_LL, cmap=ATTENTION_MAP, norm=PowerNorm(0.5, 0, 1), interpolation="none")
            ticks = range(0, map_LL.shape[0], transition_dim)
            ax.set_xticks(ticks, [str(tick // transition_dim) for tick in ticks])
            ax.set_yticks(ticks, [str(tick // transition_dim) for tick in ticks] if head == 0 else [])
            ax.tick_params(length=0, labelsize=6)
            ax.grid(visible=False)
            ax.spines[:].set_visible(False)
            ax.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=7)
    figure.supxlabel("attended transition", fontsize=8)
    figure.supylabel("attending transition", fontsize=8)
    names = " and ".join(str(layer + 1) for layer in weights)
    return drawing(
        figure,
        "Attention maps",
        f"Attention weights of layers {names}, each of {heads} heads, on one held-out window.",
        "One held-out window; one row for each token that attends, dark is much. Numbers count transitions. Value "
        "tokens are never attended to.",
    )
