"""The model's weights in the form in which the cached decoder multiplies with them."""

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.models.block import Block
from pipeline.models.trajectory_transformer import TrajectoryTransformer

Affine = tuple[Tensor, Tensor]
"""Weight and bias."""


@dataclass(frozen=True)
class LayerWeights:
    """One block. `qkv` gives queries already divided by sqrt(head width)."""

    attention_norm: Affine
    qkv: Affine
    projection: Affine
    mlp_norm: Affine
    expand: Affine
    contract: Affine


ROW_BLOCK = 16
"""Matrix products get a multiple of so many rows. One that is left over alone may take another kernel, with other last
bits (MKL 2024: at 5, 9, 17 rows), and where episodes share a product (CUDA) their results would depend on their slots.
"""


def padded_rows(x_RW: Tensor) -> Tensor:
    """Returns `x_RW` with rows of zeros behind it, up to a multiple of `ROW_BLOCK`."""
    missing = -x_RW.shape[0] % ROW_BLOCK
    return functional.pad(x_RW, (0, 0, 0, missing)) if missing else x_RW


class Weights:
    """Copies of a model's weights on one device.

    The residual stream, the norms and the heads are in `dtype`; the products inside the blocks, the keys and the
    values in `product_dtype`, which differs from it only for bfloat16.

    Args:
        model: Read once; later changes to it have no effect here.
        device: Where the copies live.
        product_dtype: Of the blocks' matrix products.
    """

    def __init__(self, model: TrajectoryTransformer, device: torch.device, product_dtype: torch.dtype) -> None:
        self.dtype = torch.float32 if product_dtype == torch.bfloat16 else product_dtype
        self.product_dtype = product_dtype
        self._device = device
        self.heads, self.width = model.config.heads, model.config.width
        self.tokens = self._stream(model.token_embedding.weight)
        self.positions = self._stream(model.position_embedding)
        self.layers = [self._layer(cast(Block, block)) for block in model.blocks]
        self.norm = self._norm(model.norm)
        self.head_DVW = self._stream(model.head.weight)
        # Bins that a dimension lacks get -inf by way of a bias, which costs no pass of its own.
        self.head_bias_DV = torch.zeros_like(self.head_DVW[..., 0])
        self.head_bias_DV.masked_fill_(model.unused_bins.to(device), -torch.inf)

    def _stream(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(self._device, self.dtype, copy=True)

    def _product(self, weight: Tensor, bias: Tensor) -> Affine:
        return self._stream(weight).to(self.product_dtype), self._stream(bias).to(self.product_dtype)

    def _norm(self, norm: torch.nn.LayerNorm) -> Affine:
        return self._stream(norm.weight), self._stream(norm.bias)

    def _layer(self, block: Block) -> LayerWeights:
        # Divided before they are rounded: sqrt(head width) is seldom a power of two.
        weight, bias = self._stream(block.attention.qkv.weight), self._stream(block.attention.qkv.bias)
        weight[: self.width] /= math.sqrt(self.width // self.heads)
        bias[: self.width] /= math.sqrt(self.width // self.heads)
        projection, expand, contract = block.attention.projection, block.mlp.expand, block.mlp.contract
        return LayerWeights(
            attention_norm=self._norm(block.attention_norm),
            qkv=self._product(weight, bias),
            projection=self._product(projection.weight, projection.bias),
            mlp_norm=self._norm(block.mlp_norm),
            expand=self._product(expand.weight, expand.bias),
            contract=self._product(contract.weight, contract.bias),
        )

    def embedded(self, rows_EKQ: Tensor, positions_E: Tensor) -> Tensor:
        """Returns the padded (R, W) residual stream of tokens, given as rows of the embedding, at one position."""
        return padded_rows((self.tokens[rows_EKQ] + self.positions[positions_E][:, None, None]).flatten(0, 2))

    def queries_keys_values(self, layer: LayerWeights, x_RW: Tensor) -> Tensor:
        """Returns (R, 3 W) of the normed residual stream."""
        normed = functional.layer_norm(x_RW, x_RW.shape[-1:], *layer.attention_norm)
        return functional.linear(normed.to(self.product_dtype), *layer.qkv)

    def after_attention(self, layer: LayerWeights, x_RW: Tensor, y_RW: Tensor) -> Tensor:
        """Adds the projected heads' output `y_RW` and the MLP to the residual stream, in place."""
        x_RW += functional.linear(y_RW, *layer.projection)
        normed = functional.layer_norm(x_RW, x_RW.shape[-1:], *layer.mlp_norm)
        inside = functional.gelu(functional.linear(normed.to(self.product_dtype), *layer.expand))
        x_RW += functional.linear(inside, *layer.contract)
        return x_RW

    def logits(self, x_RW: Tensor, dimension: int) -> Tensor:
        """Returns the (R, V) logits after an input of `dimension`; one head, not all D."""
        normed = functional.layer_norm(x_RW, x_RW.shape[-1:], *self.norm)
        return functional.linear(normed, self.head_DVW[dimension], self.head_bias_DV[dimension])
