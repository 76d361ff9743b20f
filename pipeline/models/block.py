"""One pre-norm Transformer block: masked self-attention and an MLP, each added to its input.

It knows nothing of transitions; which positions may be attended to comes in as a mask.

Shape letters: B batch, L tokens, Q tokens whose output is wanted, D embedding width, H heads, d = D / H.
"""

from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.dropout import Dropout, scaled_mask

Activation = Literal["gelu", "relu"]

MLP_FACTOR = 4
QUERIES_AT_ONCE = 64
"""Of unfused attention: less work for the short prefixes of early queries, against more calls."""


class BlockShape(Protocol):
    """What a block is built from: `width` D, `heads` that divide it, `dropout` from 0 to below 1."""

    @property
    def width(self) -> int: ...  # noqa: D102
    @property
    def heads(self) -> int: ...  # noqa: D102
    @property
    def dropout(self) -> float: ...  # noqa: D102


def attention(q_BHQd: Tensor, k_BHLd: Tensor, v_BHLd: Tensor, mask_QL: Tensor, dropout: float) -> Tensor:
    """Returns `dropout(softmax(q k^T / sqrt(d))) v` over the keys that the mask lets each query see.

    Fused wherever that is faster. On a CPU the fused kernel has no dropout, and in bfloat16 its backward is slow: one
    layer forward and backward takes 17 ms fused in float32 and 11 ms unfused in bfloat16 (batch 16 of 159 tokens, one
    core with AVX-512), where fused in bfloat16 took twice as long as in float32.
    """
    if q_BHQd.device.type == "cpu" and (dropout > 0 or q_BHQd.dtype is torch.bfloat16):
        with torch.autocast("cpu", enabled=False):
            return _unfused_attention(q_BHQd, k_BHLd, v_BHLd, mask_QL, dropout)
    return functional.scaled_dot_product_attention(q_BHQd, k_BHLd, v_BHLd, attn_mask=mask_QL, dropout_p=dropout)


def _unfused_attention(q_BHQd: Tensor, k_BHLd: Tensor, v_BHLd: Tensor, mask_QL: Tensor, dropout: float) -> Tensor:
    q, k, v = (part.flatten(0, 1) for part in (q_BHQd, k_BHLd, v_BHLd))
    hidden_QL = torch.zeros_like(mask_QL, dtype=q.dtype).masked_fill_(~mask_QL, -torch.inf)
    y: Tensor = _UnfusedAttention.apply(q, k, v, hidden_QL, dropout)  # type: ignore[no-untyped-call]
    return y.view(q_BHQd.shape)


class _UnfusedAttention(torch.autograd.Function):
    """Attention from explicit shares, some queries at a time: the keys behind the last of them are left out.

    With fewer queries than keys, which query is at which key's position is not known, and no key is left out.

    Written with its gradients, because autograd would add up one whole gradient of keys and values for each part: 7 %
    of a training step.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, hidden_QL: Tensor, dropout: float) -> Tensor:
        """Returns (B H, Q, d) from as large queries, (B H, L, d) keys and values, and what is added to scores."""
        y, shares, masks = torch.empty_like(q), [], []
        for first, last, seen in _parts(*hidden_QL.shape):
            keys = k[:, :seen].transpose(1, 2)
            scores = torch.baddbmm(hidden_QL[first:last, :seen], q[:, first:last], keys, alpha=q.shape[-1] ** -0.5)
            shares.append(torch.softmax(scores, dim=-1))
            masks.append(scaled_mask(scores.shape, dropout, scores.dtype) if dropout > 0 else scores.new_ones(()))
            y[:, first:last] = torch.bmm(shares[-1] * masks[-1], v[:, :seen])
        ctx.save_for_backward(q, k, v, *shares, *masks)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Returns the gradients of queries, keys and values."""
        q, k, v, *saved = ctx.saved_tensors
        dq, dk, dv, scale = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v), q.shape[-1] ** -0.5
        for part, (first, last, seen) in enumerate(_parts(q.shape[1], k.shape[1])):
            shares, mask, dy_part = saved[part], saved[len(saved) // 2 + part], dy[:, first:last]
            dv[:, :seen].baddbmm_((shares * mask).transpose(1, 2), dy_part)
            dshares = torch.bmm(dy_part, v[:, :seen].transpose(1, 2)) * mask
            dscores = torch.ops.aten._softmax_backward_data(dshares, shares, -1, shares.dtype)
            dq[:, first:last] = torch.bmm(dscores, k[:, :seen]) * scale
            dk[:, :seen].baddbmm_(dscores.transpose(1, 2), q[:, first:last], alpha=scale)
        return dq, dk, dv, None, None


def _parts(queries: int, keys: int) -> list[tuple[int, int, int]]:
    """Returns the first and last query of each part, and how many keys these may see."""
    lasts = [(first, min(first + QUERIES_AT_ONCE, queries)) for first in range(0, queries, QUERIES_AT_ONCE)]
    return [(first, last, last if queries == keys else keys) for first, last in lasts]


class SelfAttention(nn.Module):
    """Multi-head self-attention with one fused projection to queries, keys and values."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.attention_dropout = shape.dropout
        self.qkv = nn.Linear(shape.width, 3 * shape.width)
        self.projection = nn.Linear(shape.width, shape.width)

    def forward(self, x_BLD: Tensor, mask_LL: Tensor) -> Tensor:
        """Returns `softmax(Q K^T / sqrt(D / H)) V`, projected.

        Args:
            x_BLD: Normed input.
            mask_LL: True where the query (row) may see the key (column); every row needs a True.
        """
        batch, length, width = x_BLD.shape
        q, k, v = self.qkv(x_BLD).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return self._mixed(q, k, v, mask_LL)

    def at(self, x_BLD: Tensor, queries: slice, mask_QL: Tensor) -> Tensor:
        """Returns the rows `queries` of what `forward` returns, (B, Q, D), without computing the others.

        Args:
            x_BLD: As in `forward`; all positions are keys.
            queries: Which positions are queries.
            mask_QL: Their rows of the mask.
        """
        batch, length, width = x_BLD.shape
        weight, bias, head_width = self.qkv.weight, self.qkv.bias, width // self.heads
        q_BQD = functional.linear(x_BLD[:, queries], weight[:width], bias[:width])
        q_BHQd = q_BQD.view(batch, -1, self.heads, head_width).transpose(1, 2)
        keys_values = functional.linear(x_BLD, weight[width:], bias[width:])
        k, v = keys_values.view(batch, length, 2, self.heads, head_width).permute(2, 0, 3, 1, 4)
        return self._mixed(q_BHQd, k, v, mask_QL)

    def _mixed(self, q_BHQd: Tensor, k_BHLd: Tensor, v_BHLd: Tensor, mask_QL: Tensor) -> Tensor:
        y_BHQd = attention(q_BHQd, k_BHLd, v_BHLd, mask_QL, self.attention_dropout if self.training else 0.0)
        projected: Tensor = self.projection(y_BHQd.transpose(1, 2).flatten(2))
        return projected


class Mlp(nn.Module):
    """`W2 activation(W1 x)`, four times as wide inside.

    Args:
        shape: Its width.
        activation: `gelu` (exact, as in the released Trajectory Transformer) or `relu`.
    """

    def __init__(self, shape: BlockShape, activation: Activation = "gelu") -> None:
        super().__init__()
        self.expand = nn.Linear(shape.width, MLP_FACTOR * shape.width)
        self.contract = nn.Linear(MLP_FACTOR * shape.width, shape.width)
        self._activation = functional.gelu if activation == "gelu" else functional.relu

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Maps every position alone."""
        contracted: Tensor = self.contract(self._activation(self.expand(x_BLD)))
        return contracted


class Block(nn.Module):
    """`x += attention(norm(x)); x += mlp(norm(x))`.

    Args:
        shape: Width, heads, dropout.
        activation: Of the MLP.
    """

    def __init__(self, shape: BlockShape, activation: Activation = "gelu") -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(shape.width)
        self.attention = SelfAttention(shape)
        self.mlp_norm = nn.LayerNorm(shape.width)
        self.mlp = Mlp(shape, activation)
        self.residual_dropout = Dropout(shape.dropout)

    def forward(self, x_BLD: Tensor, mask_LL: Tensor) -> Tensor:
        """Returns the residual stream after this block; `mask_LL` as in `SelfAttention.forward`."""
        return self._with_mlp(x_BLD + self.residual_dropout(self.attention(self.attention_norm(x_BLD), mask_LL)))

    def at(self, x_BLD: Tensor, queries: slice, mask_QL: Tensor) -> Tensor:
        """Returns the rows `queries` of what `forward` returns, (B, Q, D); arguments as in `SelfAttention.at`."""
        y_BQD = self.attention.at(self.attention_norm(x_BLD), queries, mask_QL)
        return self._with_mlp(x_BLD[:, queries] + self.residual_dropout(y_BQD))

    def _with_mlp(self, x_BQD: Tensor) -> Tensor:
        out: Tensor = x_BQD + self.residual_dropout(self.mlp(self.mlp_norm(x_BQD)))
        return out
