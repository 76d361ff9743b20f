"""Windows of consecutive transitions, cut from resident token episodes on the device that trains.

Every transition is the start of one window. What lies beyond the end of the window's episode is filled with the stop
token. It is learnt where the episode terminated, so that the model knows that nothing follows; where the episode was
truncated (a time limit, a collector that stopped) nobody knows what would have followed, and the loss leaves it out.

Shape letters: S transitions of the split, B windows, W transitions of a window, D tokens of a transition.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from pipeline.data.shards import TokenEpisodes
from pipeline.errors import DataError
from pipeline.training.order import ShuffledStarts


@dataclass(frozen=True)
class WindowBatch:
    """Windows ready for the model.

    Attributes:
        tokens: (B, W, D) integers 0 to N; rows beyond the end of the episode hold the stop token N.
        counted: (B, W) bool, True where the row's tokens count in the loss.
    """

    tokens: Tensor
    counted: Tensor


class WindowSource(Protocol):
    """Where the windows of an optimizer step come from: resident tokens, or a stream."""

    def batch(self, step: int) -> WindowBatch:
        """Returns this worker's windows of optimizer step `step`; steps are asked for in ascending order."""
        ...


def held_dtype(tokens: DTypeLike) -> np.dtype[Any]:
    """Returns the type that tokens of a shard's type are held as: torch cannot index uint16, and takes int32 for it."""
    return np.dtype(np.uint8) if np.dtype(tokens) == np.uint8 else np.dtype(np.int32)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Returns a tensor of the host on `device`, without waiting for what the device still has to do."""
    if device.type == "cuda":
        # A copy from memory that may be paged out waits for its turn on the device.
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class ResidentWindows:
    """All token episodes of a split on one device; any window is one gather."""

    def __init__(self, episodes: TokenEpisodes, window_transitions: int, device: torch.device) -> None:
        """Moves the tokens to `device`; on a CPU, where their type stays as it is, nothing is copied.

        Raises:
            DataError: There is no episode.
        """
        if len(episodes.tokens) == 0:
            raise DataError(
                "The split has 0 transitions; expected at least 1. "
                "data.validation_share may leave no episode for training: lower it, or collect more episodes."
            )
        tokens = episodes.tokens.astype(held_dtype(episodes.tokens.dtype), copy=False)
        self._tokens = torch.from_numpy(tokens).to(device)
        self._offsets = torch.from_numpy(np.array(episodes.offsets)).to(device)
        self._terminated = torch.from_numpy(np.array(episodes.terminated)).to(device)
        self._steps_W = torch.arange(window_transitions, device=device)
        self._stop = episodes.layout.stop_token
        self._device = device

    @property
    def num_starts(self) -> int:
        """Start indices: one for each transition."""
        return len(self._tokens)

    def gather(self, starts: NDArray[np.int64]) -> WindowBatch:
        """Returns the windows that begin at the transitions `starts`, (B,) indices into the split."""
        starts_B = moved(torch.from_numpy(starts), self._device)
        episodes_B = torch.searchsorted(self._offsets, starts_B, right=True) - 1
        rows_BW = starts_B[:, None] + self._steps_W
        real_BW = rows_BW < self._offsets[episodes_B + 1][:, None]
        tokens_BWD = self._tokens[rows_BW.clamp_(max=self.num_starts - 1)]
        tokens_BWD = tokens_BWD.masked_fill_(~real_BW[:, :, None], self._stop)
        return WindowBatch(tokens_BWD, real_BW | self._terminated[episodes_B][:, None])


def share_of(batch_size: int, rank: int, world_size: int) -> slice:
    """Returns which windows of a global batch belong to worker `rank`; shares differ by at most one window."""
    return slice(batch_size * rank // world_size, batch_size * (rank + 1) // world_size)


class ShuffledWindows:
    """The training windows of one worker: its share of each global batch of the shuffled stream."""

    def __init__(self, windows: ResidentWindows, seed: int, batch_size: int, rank: int, world_size: int) -> None:
        """Prepares the stream; `batch_size` is the global one."""
        self._windows = windows
        self._order = ShuffledStarts(windows.num_starts, seed)
        self._batch_size = batch_size
        self._share = share_of(batch_size, rank, world_size)

    def batch(self, step: int) -> WindowBatch:
        """Returns this worker's windows of optimizer step `step`."""
        first = step * self._batch_size + self._share.start
        return self._windows.gather(self._order.at(first, self._share.stop - self._share.start))
