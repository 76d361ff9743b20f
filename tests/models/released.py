"""The numbers of the Decision Transformer's released gym code, and windows of the data that they were computed from.

`decision_transformer.npz` was made with that code (kzl/decision-transformer at e2d82e6, MIT), dropout off, large random
weights, float32. Kernels of its blocks are (in, out). Its windows are filled up on the left, ours on the right.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.data.spaces import Spaces

NUMBERS = dict(np.load(Path(__file__).with_name("decision_transformer.npz")))
OBSERVATION_DIM, ACTION_DIM, CONTEXT_STEPS, WIDTH, LAYERS, HEADS, MAX_EPISODE_STEPS = NUMBERS["sizes"].tolist()
UPDATED_ON = ("padded", "full", "padded")
"""The batches of the three updates."""


@dataclass(frozen=True)
class Shape:
    layers: int = LAYERS
    heads: int = HEADS
    width: int = WIDTH
    dropout: float = 0.0
    context_steps: int = CONTEXT_STEPS
    max_episode_steps: int = MAX_EPISODE_STEPS


@dataclass(frozen=True)
class Windows:
    """One batch as `DecisionTransformer.forward` takes it; `real` is True where a step is not there to fill up."""

    observations: Tensor
    actions: Tensor
    returns_to_go: Tensor
    timesteps: Tensor
    real: Tensor

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.observations, self.actions, self.returns_to_go, self.timesteps

    def float(self) -> "Windows":
        """In single precision."""
        return Windows(
            self.observations.float(), self.actions.float(), self.returns_to_go.float(), self.timesteps, self.real
        )


def spaces(observation_dim: int = OBSERVATION_DIM, action_dim: int = ACTION_DIM, bound: float = 1.0) -> Spaces:
    """Continuous actions between -bound and bound."""
    plain = Spaces.plain(observation_dim, action_dim)
    return plain.model_copy(update={"action_low": (-bound,) * action_dim, "action_high": (bound,) * action_dim})


def discrete_spaces(observation_dim: int, choices: int) -> Spaces:
    plain = Spaces.plain(observation_dim, 1)
    return plain.model_copy(update={"action_kind": "discrete", "action_shape": (), "action_choices": choices})


def tensor(name: str) -> Tensor:
    return torch.from_numpy(NUMBERS[name])


def windows(batch: str) -> Windows:
    """The steps of the batch `full` or `padded`, taken from the episodes and filled up on the right with zeros."""
    lengths = NUMBERS["data.lengths"]
    firsts = np.cumsum(lengths) - lengths
    pairs = NUMBERS[f"batch_{batch}_normal.pairs"]
    columns = {name: np.zeros((len(pairs), CONTEXT_STEPS, dim), np.float32) for name, dim in _DIMS.items()}
    timesteps, real = (np.zeros((len(pairs), CONTEXT_STEPS), dtype) for dtype in (np.int64, np.bool_))
    for row, (episode, start) in enumerate(pairs):
        stop = min(start + CONTEXT_STEPS, lengths[episode])
        chosen, here = slice(firsts[episode] + start, firsts[episode] + stop), slice(stop - start)
        rewards = NUMBERS["data.rewards"][firsts[episode] + start : firsts[episode] + lengths[episode]]
        columns["observations"][row, here] = NUMBERS["data.observations"][chosen]
        columns["actions"][row, here] = NUMBERS["data.actions"][chosen]
        columns["returns_to_go"][row, here, 0] = np.cumsum(rewards[::-1], dtype=np.float64)[::-1][here]
        timesteps[row, here], real[row, here] = np.arange(start, stop), True
    observations, actions, returns = (torch.from_numpy(columns[name]) for name in _DIMS)
    return Windows(observations, actions, returns[..., 0], torch.from_numpy(timesteps), torch.from_numpy(real))


_DIMS = {"observations": OBSERVATION_DIM, "actions": ACTION_DIM, "returns_to_go": 1}


def released_places(batch: str) -> Tensor:
    """Where the released code has the real steps of `windows(batch)`: in the same order, but at the right."""
    return tensor(f"batch_{batch}_normal.mask").bool()
