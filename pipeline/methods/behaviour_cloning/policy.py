"""A policy that sees the current observation alone.

Shape letters: O observation_dim, A action_dim.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from pipeline.acting import Decision, Vector
from pipeline.data.spaces import Spaces
from pipeline.methods.action_choice import ActionChoice


class ReactivePolicy:
    """Acts by what a network predicts from one observation, one slot after the other.

    Args:
        model: In evaluation mode, on `device`; from (1, O) to actions or logits.
        spaces: Of the data.
        num_slots: Episodes at once.
        device: Where the model is.
        sample_actions: See `ActionChoice`.
    """

    def __init__(self, model: nn.Module, spaces: Spaces, num_slots: int, device: str, sample_actions: bool) -> None:
        self.num_slots = num_slots
        self._model, self._spaces, self._device, self._sample = model, spaces, device, sample_actions
        self._choices: dict[int, ActionChoice] = {}

    def reset(self, slot: int, seed: int) -> None:
        """See `Policy`."""
        self._choices[slot] = ActionChoice(self._spaces, self._sample, seed)

    def act(self, observations: Mapping[int, Vector]) -> dict[int, Decision]:
        """See `Policy`."""
        with torch.inference_mode():
            return {slot: Decision(self._act(slot, observation)) for slot, observation in observations.items()}

    def _act(self, slot: int, observation: Vector) -> Vector:
        row = torch.from_numpy(observation.astype(np.float32))[None].to(self._device)
        return self._choices[slot](self._model(row)[0])

    def record(self, slot: int, action: Vector, reward: float) -> None:
        """Does nothing: what happened does not matter to it."""
