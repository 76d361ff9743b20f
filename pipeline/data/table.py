"""Episodes in memory as a table of named columns, one row for each step, one episode behind the other."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "validation"]

TOKENS, OBSERVATIONS, ACTIONS, REWARDS = "tokens", "observations", "actions", "rewards"
"""Columns of the shards. Observations have one more row than the others there: what the last action led to."""

RETURNS_TO_GO = "returns_to_go"
"""The sum of the rewards from a step on; made of them on reading."""


def held(column: NDArray[Any]) -> NDArray[Any]:
    """Returns a column as a training holds it: torch cannot index uint16, and takes int32 for it."""
    return column.astype(np.int32) if column.dtype == np.uint16 else column


@dataclass(frozen=True, order=True)
class Rank:
    """Where an episode stands among others: by its return; of equal ones by source and id, so that no two are equal."""

    total_reward: float
    source: str
    episode_id: int


@dataclass(frozen=True)
class EpisodeTable:
    """Some columns of many episodes.

    Shape letters: S steps of all episodes, n episodes.

    Attributes:
        columns: (S, ...) by name; all of the same length.
        offsets: (n + 1,) where each episode starts; episode i is rows `offsets[i]` to `offsets[i + 1]`.
        terminated: (n,) the MDP itself ended after the episode's last step; False for a limit outside it.
        total_rewards: (n,) undiscounted sum of each episode's rewards.
    """

    columns: Mapping[str, NDArray[Any]]
    offsets: NDArray[np.int64]
    terminated: NDArray[np.bool_]
    total_rewards: NDArray[np.float64]

    @property
    def num_episodes(self) -> int:
        """The number of episodes, n."""
        return len(self.offsets) - 1

    @property
    def num_steps(self) -> int:
        """The number of rows of each column, S."""
        return int(self.offsets[-1])

    def __getitem__(self, column: str) -> NDArray[Any]:
        return self.columns[column]
