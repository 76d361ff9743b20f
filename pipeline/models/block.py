"""One pre-norm Transformer block: masked self-attention and an MLP, each added to its input.

It knows nothing of transitions; which positions may be attended to comes in as a mask.

Shape letters: B batch, L tokens, D embedding width, H heads.
"""

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
    """Returns attention from explicit shares, some queries at a time: the keys behind the last of them are left out."""
    q, k, v = (part.flatten(0, 1) for part in (q_BHLd, k_BHLd, v_BHLd))
    hidden_LL = torch.zeros_like(mask_LL, dtype=q.dtype).masked_fill_(~mask_LL, -torch.inf)
    parts = []
    for first in range(0, q.shape[1], QUERIES_AT_ONCE):
        last = min(first + QUERIES_AT_ONCE, q.shape[1])
        keys = k[:, :last].transpose(1, 2)
        scores = torch.baddbmm(hidden_LL[first:last, :last], q[:, first:last], keys, alpha=q.shape[-1] ** -0.5)
        shares = torch.softmax(scores, dim=-1)
        if dropout > 0:
            shares = shares * scaled_mask(shares.shape, dropout, shares.dtype)
        parts.append(torch.bmm(shares, v[:, :last]))
    return torch.cat(parts, dim=1).view(q_BHLd.shape)


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
