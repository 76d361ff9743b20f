"""What the Decision Transformer and the Transformer of behaviour cloning have in common: network, policy and cost.

Shape letters: O observation_dim, A action_dim, K steps that are seen.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.acting import Decision, Vector
from pipeline.data.manifest import Manifest
from pipeline.data.spaces import Spaces
from pipeline.methods.action_choice import ActionChoice
from pipeline.methods.sequence_settings import SequenceSettings
from pipeline.models.block import MLP_FACTOR
from pipeline.models.decision_transformer import DecisionTransformer


@dataclass(frozen=True)
class _Shape:
    layers: int
    heads: int
    width: int
    dropout: float
    context_steps: int
    max_episode_steps: int


def sequence_model(settings: SequenceSettings, manifest: Manifest, return_scale: float | None) -> DecisionTransformer:
    """Returns the network for some data, with initial weights of torch's seed.

    Args:
        settings: Its shape; without a number of steps of an episode, that is the longest of the data.
        manifest: Of the data.
        return_scale: What returns are divided by; None for a network without returns.
    """
    shape = _Shape(
        layers=settings.layers,
        heads=settings.heads,
        width=settings.width,
        dropout=settings.dropout,
        context_steps=settings.context_steps,
        **of_the_data(settings, manifest),
    )
    mean, deviation = manifest.statistics.moments(manifest.spaces.observation_dim)
    return DecisionTransformer(
        shape, manifest.spaces, mean, deviation, return_scale or 1.0, conditions_on_return=return_scale is not None
    )


def of_the_data(settings: SequenceSettings, manifest: Manifest) -> dict[str, Any]:
    """Returns what the data decides of such a network where the settings leave it open."""
    return {"max_episode_steps": settings.max_episode_steps or manifest.statistics.longest_episode}


@dataclass
class _Episode:
    """What the policy remembers of a running episode: its last K steps, the action of the current one still zero."""

    choose: ActionChoice
    return_to_go: float
    observations: deque[Vector]
    actions: deque[Vector]
    returns_to_go: deque[float]
    step: int = 0


class SequencePolicy:
    """Acts by what a Transformer predicts from the last steps, and from the return that is still to come.

    Every slot is a forward pass of its own, of a shape that depends on the episode's step alone: so an episode is the
    same in any slot and beside any others. (Ten slots of the paper's model take 6.3 ms of passes on two cores; in one
    pass they would take 4.1 to 4.7.)

    Args:
        model: In evaluation mode, on `device`.
        spaces: Of the data.
        num_slots: Episodes at once.
        device: Where the model is.
        context_steps: K, at most the model's.
        sample_actions: See `ActionChoice`.
        target_return: Return that each episode is asked for; None for a model that is asked for none.
    """

    def __init__(
        self,
        model: DecisionTransformer,
        spaces: Spaces,
        num_slots: int,
        device: str,
        context_steps: int,
        sample_actions: bool,
        target_return: float | None = None,
    ) -> None:
        self.num_slots = num_slots
        self._model, self._spaces, self._device = model, spaces, torch.device(device)
        self._context_steps, self._sample, self._target = context_steps, sample_actions, target_return
        self._episodes: dict[int, _Episode] = {}

    def reset(self, slot: int, seed: int) -> None:
        """See `Policy`."""
        choose = ActionChoice(self._spaces, self._sample, seed)
        steps = self._context_steps
        self._episodes[slot] = _Episode(
            choose, self._target or 0.0, deque(maxlen=steps), deque(maxlen=steps), deque(maxlen=steps)
        )

    def act(self, observations: Mapping[int, Vector]) -> dict[int, Decision]:
        """See `Policy`."""
        with torch.inference_mode():
            return {slot: Decision(self._act(self._episodes[slot], now)) for slot, now in observations.items()}

    def _act(self, episode: _Episode, observation: Vector) -> Vector:
        episode.observations.append(observation)
        episode.actions.append(np.zeros(self._spaces.action_dim))
        episode.returns_to_go.append(episode.return_to_go)
        seen = len(episode.observations)
        steps = torch.arange(episode.step - seen + 1, episode.step + 1, device=self._device)
        returns = None if self._target is None else self._tensor(np.array(episode.returns_to_go))
        predicted = self._model.act(
            self._tensor(np.array(episode.observations)), self._tensor(np.array(episode.actions)), returns, steps[None]
        )
        return episode.choose(predicted[0])

    def _tensor(self, array: NDArray[np.float64]) -> torch.Tensor:
        return torch.from_numpy(array.astype(np.float32))[None].to(self._device)

    def record(self, slot: int, action: Vector, reward: float) -> None:
        """See `Policy`: what was got is no longer to come, even where it is more than was asked for."""
        episode = self._episodes[slot]
        episode.actions[-1] = action
        episode.return_to_go -= reward
        episode.step += 1


def flops_per_window(model: DecisionTransformer, steps: int) -> float:
    """Returns the floating-point operations that the training needs for a window of so many steps.

    Counted as `pipeline.methods.trajectory_transformer.objective.flops_per_token` counts; embeddings and head, of a
    few columns each, are left out.
    """
    tokens, width, layers = model.step_tokens * steps, model.norm.normalized_shape[0], len(model.blocks)
    # The last block computes keys and values for all tokens, and the rest where an action is read.
    keys_and_values, rest = 2 * width**2, (2 + 2 * MLP_FACTOR) * width**2
    weights = tokens * (layers * keys_and_values + (layers - 1) * rest) + steps * rest
    attention = 2 * width * (tokens + 1) / 2 * (tokens * (layers - 1) + steps)
    return 3 * 2 * (weights + attention)
