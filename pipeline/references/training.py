"""One training step written as plainly as possible: the oracle of `pipeline.training` and the benchmark's yardstick.

Explicit attention matrix, separate queries, keys and values, float32, windows gathered row by row, an optimizer without
fused kernels. It shares no code with what it is compared to, only weights. Dropout stands where the paper has it.

Shape letters: B windows, L inputs of a window, D tokens of a transition, V vocabulary, W embedding width, H heads.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.data.table import TOKENS, EpisodeTable
from pipeline.methods.trajectory_transformer.config import LossWeights
from pipeline.models.block import BlockShape
from pipeline.models.config import ModelConfig
from pipeline.models.trajectory_transformer import TrajectoryTransformer
from pipeline.tokens.layout import TransitionLayout
from pipeline.training.config import TrainingConfig


def reference_windows(
    episodes: EpisodeTable, starts: Sequence[int], window_transitions: int, stop_token: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Returns the tokens (B, window, D) of the windows that begin at `starts`, and which rows (B, window) count."""
    windows, counted = [], []
    for start in starts:
        episode = next(i for i in range(episodes.num_episodes) if start < episodes.offsets[i + 1])
        rows, counts = [], []
        for row in range(start, start + window_transitions):
            if row < episodes.offsets[episode + 1]:
                rows.append([int(token) for token in episodes[TOKENS][row]])
                counts.append(True)
            else:
                rows.append([stop_token] * episodes[TOKENS].shape[1])
                counts.append(bool(episodes.terminated[episode]))
        windows.append(rows)
        counted.append(counts)
    return np.array(windows), np.array(counted)


_NAMES = {
    "attention.projection": "attention.projection",
    "attention_norm": "attention_norm",
    "mlp_norm": "mlp_norm",
    "expand": "mlp.expand",
    "contract": "mlp.contract",
}
"""What layers of a block are called here, and in ours."""


class _Attention(nn.Module):
    mask: Tensor

    def __init__(self, config: BlockShape, mask_LL: Tensor) -> None:
        super().__init__()
        self.query, self.key, self.value, self.projection = (nn.Linear(config.width, config.width) for _ in range(4))
        self.attention_dropout, self.residual_dropout = nn.Dropout(config.dropout), nn.Dropout(config.dropout)
        self.heads = config.heads
        self.register_buffer("mask", mask_LL)

    def forward(self, x_BLW: Tensor) -> Tensor:
        batch, length, width = x_BLW.shape
        shape = (batch, length, self.heads, width // self.heads)
        q, k, v = (layer(x_BLW).view(shape).transpose(1, 2) for layer in (self.query, self.key, self.value))
        scores_BHLL = (q @ k.transpose(2, 3)) / math.sqrt(shape[3])
        scores_BHLL = scores_BHLL.masked_fill(~self.mask[:length, :length], -math.inf)
        y = self.attention_dropout(torch.softmax(scores_BHLL, dim=-1)) @ v
        out: Tensor = self.residual_dropout(self.projection(y.transpose(1, 2).contiguous().view(batch, length, width)))
        return out


class ReferenceBlock(nn.Module):
    """A Transformer block, one projection after the other.

    Args:
        shape: Width, heads, dropout.
        mask_LL: Which keys (columns) each query (row) sees.
        activation: Of the MLP.
    """

    def __init__(
        self,
        shape: BlockShape,
        mask_LL: Tensor,
        activation: Callable[[Tensor], Tensor] = nn.functional.gelu,
    ) -> None:
        super().__init__()
        config, self._activation = shape, activation
        self.attention_norm, self.mlp_norm = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.attention = _Attention(config, mask_LL)
        self.expand, self.contract = (
            nn.Linear(config.width, 4 * config.width),
            nn.Linear(4 * config.width, config.width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def copy_from(self, theirs: Mapping[str, Tensor]) -> None:
        """Takes over the weights of a block of ours, its state dict."""
        ours = {"attention.mask": self.attention.mask}
        for part in ("weight", "bias"):
            q_k_v = theirs[f"attention.qkv.{part}"].chunk(3)
            for name, tensor in zip(("query", "key", "value"), q_k_v, strict=True):
                ours[f"attention.{name}.{part}"] = tensor
            for name, theirs_name in _NAMES.items():
                ours[f"{name}.{part}"] = theirs[f"{theirs_name}.{part}"]
        self.load_state_dict(ours)

    def forward(self, x_BLW: Tensor) -> Tensor:
        """Returns the residual stream after this block."""
        x_BLW = x_BLW + self.attention(self.attention_norm(x_BLW))
        inside = self._activation(self.expand(self.mlp_norm(x_BLW)))
        out: Tensor = x_BLW + self.dropout(self.contract(inside))
        return out


class ReferenceTransformer(nn.Module):
    """The model without a trick; `copy_from` takes over the weights of ours."""

    def __init__(self, config: ModelConfig, layout: TransitionLayout) -> None:
        super().__init__()
        self.layout, length = layout, config.window_transitions * layout.transition_dim - 1
        mask_LL = torch.zeros(length, length, dtype=torch.bool)
        for query in range(length):
            for key in range(query + 1):
                mask_LL[query, key] = key % layout.transition_dim != layout.value
        self.token_embedding = nn.Embedding(layout.transition_dim * layout.num_bins + 1, config.width)
        self.position_embedding = nn.Parameter(torch.zeros(length, config.width))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(ReferenceBlock(config, mask_LL) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Parameter(torch.empty(layout.transition_dim, layout.vocabulary_size, config.width))

    def copy_from(self, model: TrajectoryTransformer) -> "ReferenceTransformer":
        """Takes over the weights of `model` and returns this model."""
        theirs = model.state_dict()
        rest = {
            name: theirs[name] for name in ("token_embedding.weight", "position_embedding", "norm.weight", "norm.bias")
        }
        self.load_state_dict({**self.state_dict(), **rest, "head": theirs["head.weight"]})
        for ours, block in zip(cast(Sequence[ReferenceBlock], self.blocks), model.blocks, strict=True):
            ours.copy_from(block.state_dict())
        return self

    def forward(self, inputs_BL: Tensor) -> Tensor:
        """Returns the (B, L, V) logits of the tokens after each input."""
        length, dim, bins = inputs_BL.shape[1], self.layout.transition_dim, self.layout.num_bins
        dimensions_L = torch.arange(length, device=inputs_BL.device) % dim
        rows_BL = inputs_BL + dimensions_L * bins
        rows_BL[inputs_BL == self.layout.stop_token] = dim * bins
        x = self.dropout(self.token_embedding(rows_BL) + self.position_embedding[:length])
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        padded = torch.cat([x, x.new_zeros(len(x), -length % dim, x.shape[2])], dim=1)
        by_dimension = padded.reshape(-1, dim, x.shape[2])
        logits = torch.einsum("dvw,bdw->bdv", self.head, by_dimension)
        return logits.reshape(len(x), -1, self.layout.vocabulary_size)[:, :length]


def reference_loss(
    model: nn.Module, tokens_BWD: Tensor, counted_BW: Tensor, layout: TransitionLayout, weights: LossWeights
) -> Tensor:
    """Returns the weighted cross-entropy over counted targets, divided by their number."""
    tokens_BL = tokens_BWD.reshape(len(tokens_BWD), -1).long()
    counted_BL = counted_BW[:, :, None].expand(tokens_BWD.shape).reshape(tokens_BL.shape)[:, 1:].float()
    losses = nn.functional.cross_entropy(
        model(tokens_BL[:, :-1]).flatten(0, 1), tokens_BL[:, 1:].flatten(), reduction="none"
    ).view(counted_BL.shape)
    kinds = [layout.kind(position % layout.transition_dim) for position in range(1, tokens_BL.shape[1])]
    weights_L = torch.tensor([getattr(weights, kind) for kind in kinds], device=losses.device)
    return (losses * weights_L * counted_BL).sum() / counted_BL.sum()


def reference_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Returns AdamW, one parameter after the other, with decay on the weights of linear layers and heads."""
    decayed = [layer.weight for layer in model.modules() if isinstance(layer, nn.Linear)]
    decayed += [parameter for name, parameter in model.named_parameters() if name == "head"]
    names = {id(parameter) for parameter in decayed}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in names]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), foreach=False)


class ReferenceStep:
    """One training step of a reference model, windows gathered row by row included.

    Args:
        model: On the device that trains.
        loss: Returns the loss on the windows at some start indices.
        config: Of the optimizer.
    """

    def __init__(self, model: nn.Module, loss: Callable[[Sequence[int]], Tensor], config: TrainingConfig) -> None:
        self.model, self.optimizer = model, reference_optimizer(model, config)
        self._loss, self._config = loss, config

    def loss(self, starts: Sequence[int]) -> Tensor:
        """Returns the loss on the windows at `starts`."""
        return self._loss(starts)

    def __call__(self, starts: Sequence[int]) -> float:
        """Updates the model and returns the loss before the update."""
        self.model.train()
        self.optimizer.zero_grad()
        loss = self.loss(starts)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), self._config.gradient_clip)
        self.optimizer.step()
        return loss.item()


def token_step(
    model: ReferenceTransformer, episodes: EpisodeTable, window: int, config: TrainingConfig, weights: LossWeights
) -> ReferenceStep:
    """Returns the step of the Trajectory Transformer's reference."""
    device, layout = next(model.parameters()).device, model.layout

    def loss(starts: Sequence[int]) -> Tensor:
        windows, counted = reference_windows(episodes, starts, window, layout.stop_token)
        tokens, counts = torch.tensor(windows, device=device), torch.tensor(counted, device=device)
        return reference_loss(model, tokens, counts, layout, weights)

    return ReferenceStep(model, loss, config)
