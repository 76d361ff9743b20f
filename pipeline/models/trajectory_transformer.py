"""The Trajectory Transformer: a GPT over the tokens of transitions (Janner, Li, Levine 2021, arXiv 2106.02039).

It maps tokens to logits and nothing else: the loss is in `pipeline.training`, sampling in `pipeline.planning`, which
also has the cached form of the same forward pass.

Shape letters: B batch, L tokens, D tokens of a transition, N bins, V = N + 1 vocabulary, W embedding width.
"""

import math

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.models.block import Block
from pipeline.models.config import ModelConfig
from pipeline.models.dropout import Dropout
from pipeline.tokens.layout import TransitionLayout

INITIAL_DEVIATION = 0.02


class DimensionHeads(nn.Module):
    """One linear head without bias for each dimension of the transition: `weight` is (D, V, W)."""

    def __init__(self, transition_dim: int, vocabulary_size: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(transition_dim, vocabulary_size, width))

    def forward(self, x_BLW: Tensor) -> Tensor:
        """Returns (B, L, V) logits; the input at position i uses head i % D."""
        batch, length, width = x_BLW.shape
        heads = self.weight.shape[0]
        padding = -length % heads
        padded = nn.functional.pad(x_BLW, (0, 0, 0, padding)).view(batch, -1, heads, width)
        logits = torch.einsum("btdw,dvw->btdv", padded, self.weight)
        return logits.reshape(batch, length + padding, -1)[:, :length]


class TrajectoryTransformer(nn.Module):
    """Predicts the next token of a trajectory.

    A window begins with the first observation token of a transition. Position i holds dimension i % D; its logits
    predict token i + 1. Attention is causal, and no position sees any value token, its own included: values are
    functions of the future. Each dimension has its own rows in the embedding and its own head; the stop token's
    embedding is the last row, shared by all. Logits of bins that a dimension does not have are -inf.

    Source: paper section 3 and its released code. Deviation: positions and heads start from N(0, 0.02) like all other
    weights, the released code has zeros and PyTorch's uniform.

    Args:
        config: Depth, width, heads, dropout, and the window in transitions.
        layout: Dimensions of a transition and the bins of each.
    """

    position_embedding: Tensor
    unused_bins: Tensor
    mask: Tensor
    first_rows: Tensor

    def __init__(self, config: ModelConfig, layout: TransitionLayout) -> None:
        super().__init__()
        self.config = config
        self.layout = layout
        transition_dim, bins = layout.transition_dim, layout.num_bins
        self.token_embedding = nn.Embedding(transition_dim * bins + 1, config.width)
        self.embedding_dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = DimensionHeads(transition_dim, layout.vocabulary_size, config.width)
        if config.positions == "learned":
            self.position_embedding = nn.Parameter(torch.empty(self.max_inputs, config.width))
        # Derived from the configuration: rebuilt on loading, never stored.
        else:
            self.register_buffer("position_embedding", sinusoids(self.max_inputs, config.width), persistent=False)
        self.register_buffer("unused_bins", _unused_bins(layout), persistent=False)
        self.register_buffer("mask", attention_mask(self.max_inputs, layout), persistent=False)
        self.register_buffer("first_rows", torch.arange(transition_dim) * bins, persistent=False)
        self._has_unused_bins = min(layout.bins) < layout.num_bins
        self._initialise()

    @property
    def max_inputs(self) -> int:
        """The longest input: the last token of a full window has nothing to predict."""
        return self.config.window_transitions * self.layout.transition_dim - 1

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=INITIAL_DEVIATION)

    def embedding_rows(self, tokens_BL: Tensor) -> Tensor:
        """Returns the rows of `token_embedding` for windows of tokens (any integer type), int64."""
        tokens_BL = tokens_BL.long()
        stop = self.layout.stop_token
        transitions = -(-tokens_BL.shape[-1] // self.layout.transition_dim)
        first_rows_L = self.first_rows.repeat(transitions)[: tokens_BL.shape[-1]]
        last_row = self.layout.transition_dim * self.layout.num_bins
        return torch.where(tokens_BL == stop, last_row, tokens_BL + first_rows_L)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """Returns the (B, L, V) logits of the tokens after each of `tokens_BL`.

        Args:
            tokens_BL: Integers 0 to N, the first one of observation dimension 0; L at most `max_inputs`.

        Raises:
            ConfigError: L is beyond the window.
        """
        length = tokens_BL.shape[1]
        if length > self.max_inputs:
            raise ConfigError(
                f"tokens has {length} positions; expected at most {self.max_inputs} = "
                f"{self.config.window_transitions} transitions * {self.layout.transition_dim} tokens - 1. "
                "Set trajectory_transformer.window_transitions higher and train again, or give a shorter window."
            )
        x = self.token_embedding(self.embedding_rows(tokens_BL)) + self.position_embedding[:length]
        x = self.embedding_dropout(x)
        mask_LL = self.mask[:length, :length]
        for block in self.blocks:
            x = block(x, mask_LL)
        return self._without_unused_bins(self.head(self.norm(x)))

    def _without_unused_bins(self, logits_BLV: Tensor) -> Tensor:
        if not self._has_unused_bins:
            return logits_BLV
        length = logits_BLV.shape[1]
        unused_LV = self.unused_bins.repeat(-(-length // self.layout.transition_dim), 1)[:length]
        return logits_BLV.masked_fill(unused_LV, -torch.inf)


def sinusoids(length: int, width: int) -> Tensor:
    """Returns (length, width) sines and cosines of the position, at frequencies from 1 down to nearly 1 / 10000.

    Scaled to the spread that all embeddings start with.

    Source: Vaswani et al. 2017, section 3.5.
    """
    frequencies = torch.pow(10_000.0, -torch.arange(0, width, 2) / width)
    angles = torch.arange(length)[:, None] * frequencies
    pairs = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]
    return INITIAL_DEVIATION * math.sqrt(2) * pairs


def attention_mask(length: int, layout: TransitionLayout) -> Tensor:
    """Returns the (L, L) mask, True where the query (row) may see the key (column): causal, never a value token."""
    positions = torch.arange(length)
    causal = positions[None, :] <= positions[:, None]
    return causal & (positions % layout.transition_dim != layout.value)[None, :]


def _unused_bins(layout: TransitionLayout) -> Tensor:
    """(D, V), row d for the head at input dimension d, which predicts dimension (d + 1) % D; stop is never unused."""
    bins_D = torch.tensor(layout.bins).roll(-1)
    tokens_V = torch.arange(layout.vocabulary_size)
    return (tokens_V[None, :] >= bins_D[:, None]) & (tokens_V != layout.stop_token)[None, :]
