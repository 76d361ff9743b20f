"""From what a network predicts to the action of an episode, for methods that predict actions."""

import numpy as np
import torch
from torch import Tensor

from pipeline.acting import Vector
from pipeline.data.spaces import Spaces
from pipeline.seeding import stream


class ActionChoice:
    """Takes a continuous action as it is predicted; draws a discrete one, or takes the most likely.

    Args:
        spaces: Of the data.
        sample: Draw from the softmax of the logits.
        seed: Of the episode; its draws depend on it and on their number alone.
    """

    def __init__(self, spaces: Spaces, sample: bool, seed: int) -> None:
        self._discrete, self._sample = spaces.action_choices is not None, sample
        self._generator = stream(seed, "sampled action")

    def __call__(self, predicted: Tensor) -> Vector:
        """Returns (A,) the action in the data's terms, of (A,) actions or (C,) logits."""
        if not self._discrete:
            return predicted.double().cpu().numpy()
        shares = torch.softmax(predicted.double().cpu(), dim=0).numpy()
        if not self._sample:
            return np.array([shares.argmax()], dtype=np.float64)
        # The last sum may be a hair below 1.
        drawn = np.searchsorted(np.cumsum(shares), self._generator.random(), side="right")
        return np.array([min(int(drawn), len(shares) - 1)], dtype=np.float64)
