"""Windows of consecutive steps, cut from resident episodes on the device that trains.

Every step is the start of one window. What lies beyond the end of the window's episode is other episodes' or repeated
rows: `real` tells it, and every loss leaves it out or puts something in its place.

Shape letters: S steps of the split, B windows, W steps of a window.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.table import EpisodeTable, held
from pipeline.errors import DataError
from pipeline.training.order import StartOrder


@dataclass(frozen=True)
class Windows:
    """Some windows.

    Attributes:
        columns: (B, W, ...) by name, as in the table of episodes; integers of 16 bits are held as int32.
        real: (B, W) bool, False beyond the end of the episode.
        terminated: (B,) bool, whether the MDP itself ended after the episode's last step.
        timesteps: (B, W) int64, steps since the beginning of the episode; they go on beyond its end.
    """

    columns: Mapping[str, Tensor]
    real: Tensor
    terminated: Tensor
    timesteps: Tensor

    def __len__(self) -> int:
        return len(self.real)

    def __getitem__(self, column: str) -> Tensor:
        return self.columns[column]

    def slice(self, part: slice) -> "Windows":
        """Returns some of the windows."""
        columns = {name: column[part] for name, column in self.columns.items()}
        return Windows(columns, self.real[part], self.terminated[part], self.timesteps[part])

    def clone(self) -> "Windows":
        """Returns the same windows in memory of their own."""
        columns = {name: column.clone() for name, column in self.columns.items()}
        return Windows(columns, self.real.clone(), self.terminated.clone(), self.timesteps.clone())

    def copy_(self, other: "Windows") -> None:
        """Takes over the windows of `other` in place.

        Raises:
            ValueError: There are not as many.
        """
        if len(other) != len(self):
            raise ValueError(f"other has {len(other)} windows; expected {len(self)}.")
        for name, column in self.columns.items():
            column.copy_(other[name])
        self.real.copy_(other.real)
        self.terminated.copy_(other.terminated)
        self.timesteps.copy_(other.timesteps)


class WindowSource(Protocol):
    """Where the windows of an optimizer step come from: resident episodes, or a stream."""

    def batch(self, step: int) -> Windows:
        """Returns this worker's windows of optimizer step `step`; steps are asked for in ascending order."""
        ...


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Returns a tensor of the host on `device`, without waiting for what the device still has to do."""
    if device.type == "cuda":
        # A copy from memory that may be paged out waits for its turn on the device.
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class ResidentWindows:
    """All episodes of a split on one device; any window is one gather."""

    def __init__(self, episodes: EpisodeTable, window: int, device: torch.device) -> None:
        """Moves the columns to `device`; on a CPU, where their type stays as it is, nothing is copied.

        Args:
            episodes: At least one.
            window: W, steps of a window.
            device: That trains.

        Raises:
            DataError: There is no episode.
        """
        if episodes.num_steps == 0:
            raise DataError(
                "The split has 0 transitions; expected at least 1. "
                "data.validation_share may leave no episode for training: lower it, or collect more episodes."
            )
        self.num_starts = episodes.num_steps
        self._columns = {name: torch.from_numpy(held(column)).to(device) for name, column in episodes.columns.items()}
        self._offsets = torch.from_numpy(np.array(episodes.offsets)).to(device)
        self._terminated = torch.from_numpy(np.array(episodes.terminated)).to(device)
        self._steps_W = torch.arange(window, device=device)
        self._device = device

    def gather(self, starts: NDArray[np.int64]) -> Windows:
        """Returns the windows that begin at the steps `starts`, (B,) indices into the split."""
        starts_B = moved(torch.from_numpy(starts), self._device)
        episodes_B = torch.searchsorted(self._offsets, starts_B, right=True) - 1
        rows_BW = starts_B[:, None] + self._steps_W
        real_BW = rows_BW < self._offsets[episodes_B + 1][:, None]
        timesteps_BW = rows_BW - self._offsets[episodes_B][:, None]
        rows_BW.clamp_(max=self.num_starts - 1)
        columns = {name: column[rows_BW] for name, column in self._columns.items()}
        return Windows(columns, real_BW, self._terminated[episodes_B], timesteps_BW)


def share_of(batch_size: int, rank: int, world_size: int) -> slice:
    """Returns which windows of a global batch belong to worker `rank`; shares differ by at most one window."""
    return slice(batch_size * rank // world_size, batch_size * (rank + 1) // world_size)


class ShuffledWindows:
    """The training windows of one worker: its share of each global batch of the shuffled stream."""

    def __init__(
        self, windows: ResidentWindows, order: StartOrder, batch_size: int, rank: int, world_size: int
    ) -> None:
        """Prepares the stream; `batch_size` is the global one."""
        self._windows, self._order = windows, order
        self._batch_size = batch_size
        self._share = share_of(batch_size, rank, world_size)

    def batch(self, step: int) -> Windows:
        """Returns this worker's windows of optimizer step `step`."""
        first = step * self._batch_size + self._share.start
        return self._windows.gather(self._order.at(first, self._share.stop - self._share.start))
