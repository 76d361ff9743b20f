"""One pre-norm Transformer block: masked self-attention and an MLP, each added to its input.

It knows nothing of transitions; which positions may be attended to comes in as a mask.

Shape letters: B batch, L tokens, D embedding width, H heads.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.config import ModelConfig
from pipeline.models.dropout import Dropout, scaled_mask

MLP_FACTOR = 4
QUERIES_AT_ONCE = 64
"""Of unfused attention: less work for the short prefixes of early queries, against more calls."""


def attention(q_BHLd: Tensor, k_BHLd: Tensor, v_BHLd: Tensor, mask_LL: Tensor, dropout: float) -> Tensor:
    """Returns `dropout(softmax(q k^T / sqrt(d))) v` over the keys that the mask lets each query see.

    Fused wherever that is faster. On a CPU the fused kernel has no dropout, and in bfloat16 its backward is slow: one
    layer forward and backward takes 17 ms fused in float32 and 11 ms unfused in bfloat16 (batch 16 of 159 tokens, one
    core with AVX-512), where fused in bfloat16 took twice as long as in float32.
    """
    if q_BHLd.device.type == "cpu" and (dropout > 0 or q_BHLd.dtype is torch.bfloat16):
        with torch.autocast("cpu", enabled=False):
            return _unfused_attention(q_BHLd, k_BHLd, v_BHLd, mask_LL, dropout)
    return functional.scaled_dot_product_attention(q_BHLd, k_BHLd, v_BHLd, attn_mask=mask_LL, dropout_p=dropout)


def _unfused_attention(q_BHLd: Tensor, k_BHLd: Tensor, v_BHLd: Tensor, mask_LL: Tensor, dropout: float) -> Tensor:
    q, k, v = (part.flatten(0, 1) for part in (q_BHLd, k_BHLd, v_BHLd))
    hidden_LL = torch.zeros_like(mask_LL, dtype=q.dtype).masked_fill_(~mask_LL, -torch.inf)
    y: Tensor = _UnfusedAttention.apply(q, k, v, hidden_LL, dropout)  # type: ignore[no-untyped-call]
    return y.view(q_BHLd.shape)


class _UnfusedAttention(torch.autograd.Function):
    """Attention from explicit shares, some queries at a time: the keys behind the last of them are left out.

    Written with its gradients, because autograd would add up one whole gradient of keys and values for each part: 7 %
    of a training step.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, hidden_LL: Tensor, dropout: float) -> Tensor:
        """Returns (B H, L, d) from as large queries, keys and values, and (L, L) what is added to scores."""
        y, shares, masks = torch.empty_like(q), [], []
        for first, last in _parts(q.shape[1]):
            keys = k[:, :last].transpose(1, 2)
            scores = torch.baddbmm(hidden_LL[first:last, :last], q[:, first:last], keys, alpha=q.shape[-1] ** -0.5)
            shares.append(torch.softmax(scores, dim=-1))
            masks.append(scaled_mask(scores.shape, dropout, scores.dtype) if dropout > 0 else scores.new_ones(()))
            y[:, first:last] = torch.bmm(shares[-1] * masks[-1], v[:, :last])
        ctx.save_for_backward(q, k, v, *shares, *masks)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Returns the gradients of queries, keys and values."""
        q, k, v, *saved = ctx.saved_tensors
        dq, dk, dv, scale = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v), q.shape[-1] ** -0.5
        for part, (first, last) in enumerate(_parts(q.shape[1])):
            shares, mask, dy_part = saved[part], saved[len(saved) // 2 + part], dy[:, first:last]
            dv[:, :last].baddbmm_((shares * mask).transpose(1, 2), dy_part)
            dshares = torch.bmm(dy_part, v[:, :last].transpose(1, 2)) * mask
            dscores = torch.ops.aten._softmax_backward_data(dshares, shares, -1, shares.dtype)
            dq[:, first:last] = torch.bmm(dscores, k[:, :last]) * scale
            dk[:, :last].baddbmm_(dscores.transpose(1, 2), q[:, first:last], alpha=scale)
        return dq, dk, dv, None, None


def _parts(length: int) -> list[tuple[int, int]]:
    return [(first, min(first + QUERIES_AT_ONCE, length)) for first in range(0, length, QUERIES_AT_ONCE)]


class SelfAttention(nn.Module):
    """Multi-head self-attention with one fused projection to queries, keys and values."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.attention_dropout = config.dropout
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.projection = nn.Linear(config.width, config.width)

    def forward(self, x_BLD: Tensor, mask_LL: Tensor) -> Tensor:
        """Returns `softmax(Q K^T / sqrt(D / H)) V`, projected.

        Args:
            x_BLD: Normed input.
            mask_LL: True where the query (row) may see the key (column); every row needs a True.
        """
        batch, length, width = x_BLD.shape
        q, k, v = self.qkv(x_BLD).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        y_BHLd = attention(q, k, v, mask_LL, self.attention_dropout if self.training else 0.0)
        projected: Tensor = self.projection(y_BHLd.transpose(1, 2).reshape(batch, length, width))
        return projected


class Mlp(nn.Module):
    """`W2 gelu(W1 x)`, four times as wide inside (exact GELU, as in the released model)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.width, MLP_FACTOR * config.width)
        self.contract = nn.Linear(MLP_FACTOR * config.width, config.width)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Maps every position alone."""
        contracted: Tensor = self.contract(functional.gelu(self.expand(x_BLD)))
        return contracted


class Block(nn.Module):
    """`x += attention(norm(x)); x += mlp(norm(x))`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = SelfAttention(config)
        self.mlp_norm = nn.LayerNorm(config.width)
        self.mlp = Mlp(config)
        self.residual_dropout = Dropout(config.dropout)

    def forward(self, x_BLD: Tensor, mask_LL: Tensor) -> Tensor:
        """Returns the residual stream after this block; `mask_LL` as in `SelfAttention.forward`."""
        x_BLD = x_BLD + self.residual_dropout(self.attention(self.attention_norm(x_BLD), mask_LL))
        out: Tensor = x_BLD + self.residual_dropout(self.mlp(self.mlp_norm(x_BLD)))
        return out
