"""Plain versions of the networks that predict actions and of their training step: the oracles of tests and benchmarks.

The Decision Transformer with one embedding after the other, each step's tokens put in their places one by one; the MLP
as a list of layers. Windows are gathered row by row, and only real steps are in the mean.

Shape letters: B windows, T steps, A action_dim, W width, P tokens of a step.
"""

from collections.abc import Sequence
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.data.table import ACTIONS, OBSERVATIONS, RETURNS_TO_GO, EpisodeTable
from pipeline.models.block import BlockShape
from pipeline.models.decision_transformer import DecisionTransformer
from pipeline.models.mlp import ActionMlp
from pipeline.references.training import ReferenceBlock, ReferenceStep
from pipeline.training.config import TrainingConfig


class ReferenceDecisionTransformer(nn.Module):
    """The network for continuous actions in [-1, 1], with the weights of ours, on its device.

    Args:
        ours: Whose weights are taken over.
        shape: Width, heads and dropout that it was made with.
    """

    def __init__(self, ours: DecisionTransformer, shape: BlockShape) -> None:
        super().__init__()
        width, tokens = shape.width, ours.step_tokens * ours.context_steps
        mask_LL = torch.zeros(tokens, tokens, dtype=torch.bool)
        for query in range(tokens):
            mask_LL[query, : query + 1] = True
        self.mean, self.deviation = ours.observation_mean, ours.observation_deviation
        self.return_scale, self.tokens = ours.return_scale, ours.step_tokens
        self.embed_return = _copy(nn.Linear(1, width), ours.return_embedding) if self.tokens == 3 else None
        self.embed_observation = _copy(nn.Linear(len(self.mean), width), ours.observation_embedding)
        action = ours.action_embedding.embedding
        self.embed_action = _copy(nn.Linear(action.weight.shape[1], width), action)
        self.embed_step = _copy(nn.Embedding(ours.step_embedding.num_embeddings, width), ours.step_embedding)
        self.embedding_norm = _copy(nn.LayerNorm(width), ours.embedding_norm)
        self.dropout = nn.Dropout(shape.dropout)
        self.blocks = nn.ModuleList(ReferenceBlock(shape, mask_LL, torch.relu) for _ in ours.blocks)
        for block, theirs in zip(cast(Sequence[ReferenceBlock], self.blocks), ours.blocks, strict=True):
            block.copy_from(theirs.state_dict())
        self.norm = _copy(nn.LayerNorm(width), ours.norm)
        self.predict_action = _copy(nn.Linear(width, action.weight.shape[1]), ours.action_head.linear)
        self.to(self.mean.device)

    def forward(self, observations: Tensor, actions: Tensor, returns: Tensor, timesteps: Tensor) -> Tensor:
        """Returns (B, T, A) actions."""
        batch, steps = timesteps.shape
        last = self.embed_step.num_embeddings - 1
        tokens = []
        for step in range(steps):
            row = self.embed_step(timesteps[:, step].clamp(max=last))
            if self.embed_return is not None:
                tokens.append(self.embed_return(returns[:, step, None] / self.return_scale) + row)
            normal = (observations[:, step] - self.mean) / self.deviation
            tokens += [self.embed_observation(normal) + row, self.embed_action(actions[:, step]) + row]
        x = self.dropout(self.embedding_norm(torch.stack(tokens, dim=1)))
        for block in self.blocks:
            x = block(x)
        x = self.norm(x).view(batch, steps, self.tokens, -1)[:, :, self.tokens - 2]
        out: Tensor = torch.tanh(self.predict_action(x))
        return out


class ReferenceMlp(nn.Module):
    """The MLP for continuous actions in [-1, 1], with the weights of ours."""

    def __init__(self, ours: ActionMlp) -> None:
        super().__init__()
        self.mean, self.deviation = ours.observation_mean, ours.observation_deviation
        layers: list[nn.Module] = []
        for hidden in (*ours.hidden, ours.action_head.linear):
            layers += [_copy(nn.Linear(hidden.weight.shape[1], hidden.weight.shape[0]), hidden), nn.ReLU()]
            layers += [nn.Dropout(ours.dropout.probability)]
        self.layers = nn.Sequential(*layers[:-2], nn.Tanh()).to(self.mean.device)

    def forward(self, observations: Tensor, _actions: Tensor, _returns: Tensor, _timesteps: Tensor) -> Tensor:
        """Returns (B, T, A) actions."""
        out: Tensor = self.layers((observations - self.mean) / self.deviation)
        return out


Layer = TypeVar("Layer", bound=nn.Module)


def _copy(layer: Layer, theirs: nn.Module) -> Layer:
    layer.load_state_dict(theirs.state_dict())
    return layer


def action_step(model: nn.Module, episodes: EpisodeTable, window: int, config: TrainingConfig) -> ReferenceStep:
    """Returns the step of a network that predicts actions, on its device."""
    device = next(model.parameters()).device

    def loss(starts: Sequence[int]) -> Tensor:
        found, real = _windows(episodes, starts, window)
        columns = [column.to(device) for column in found]
        errors: Tensor = (model(*columns) - columns[1])[real] ** 2
        return errors.mean()

    return ReferenceStep(model, loss, config)


def _windows(episodes: EpisodeTable, starts: Sequence[int], window: int) -> tuple[list[Tensor], Tensor]:
    """Returns observations, actions, returns to go and timesteps of the windows at `starts`, and what of it is real."""
    wanted = (OBSERVATIONS, ACTIONS, RETURNS_TO_GO)
    names = [name for name in wanted if name in episodes.columns]
    columns = {name: np.zeros((len(starts), window, *episodes[name].shape[1:]), np.float32) for name in names}
    timesteps, real = np.zeros((len(starts), window), np.int64), np.zeros((len(starts), window), bool)
    for number, start in enumerate(starts):
        episode = next(i for i in range(episodes.num_episodes) if start < episodes.offsets[i + 1])
        for place, row in enumerate(range(start, min(start + window, int(episodes.offsets[episode + 1])))):
            for name in names:
                columns[name][number, place] = episodes[name][row]
            timesteps[number, place], real[number, place] = row - episodes.offsets[episode], True
    absent = torch.zeros(len(starts), window)
    found = [torch.from_numpy(columns[name]) if name in columns else absent for name in wanted]
    return [*found, torch.from_numpy(timesteps)], torch.from_numpy(real)
