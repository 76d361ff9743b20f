"""The records that cross the borders between packages, all frozen, all picklable, all plain.

Shape letters: T timesteps, O observation_dim, A action_dim.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Episode:
    """One episode, flattened to plain arrays.

    Attributes:
        source: Name of the dataset that it comes from, for example `mujoco/hopper/medium-v0`.
        episode_id: Its number in that dataset.
        observations: (T + 1, O) float; the last row is what the last action led to.
        actions: (T, A) float; a discrete action is one column of its index.
        rewards: (T,) float64.
        terminated: The MDP itself ended after the last step.
        truncated: A limit outside the MDP ended it (a time limit, a collector that stopped).
        defect: Why its record cannot be used, such as "has 10 rewards, but 10 observations"; "" if it can.
    """

    source: str
    episode_id: int
    observations: NDArray[np.floating]
    actions: NDArray[np.floating]
    rewards: NDArray[np.float64]
    terminated: bool
    truncated: bool
    defect: str = ""

    @classmethod
    def unusable(cls, source: str, episode_id: int, defect: str) -> "Episode":
        """Returns what stands for an episode whose record cannot be used: no steps, and why."""
        nothing = np.empty((0, 0))
        return cls(source, episode_id, nothing, nothing, np.empty(0), False, False, defect)

    @property
    def num_steps(self) -> int:
        """T, the number of actions."""
        return len(self.rewards)


@dataclass(frozen=True)
class EpisodeResult:
    """What one evaluation episode gave: one row of the results' Parquet.

    Attributes:
        method: Name of the row of the table, what acted, for example `trajectory_transformer` or `one_step`.
        episode: Index of the episode; with the experiment's seed it fixes everything that the episode does.
        seed: Seed of the environment's reset, derived from the experiment's seed and `episode`.
        total_reward: Undiscounted sum of the rewards (the raw return).
        length: Environment steps.
        terminated, truncated: Gymnasium's, of the last step.
        success: Whether the environment reported `info["success"]` at any step, None where it reports nothing.
        predicted_return: The method's own (discounted) prediction at the first step, NaN where it makes none.
        decision_ms_median, decision_ms_p99: Milliseconds per call of the policy. One call decides for all episodes of
            the actor's batch.
        batch_size: Episodes that one call decides for, at most.
        attempts: How often the episode was started; above 1 after a lost actor.
        host: Name of the machine that ran it.
        error: The exception that the environment raised, "" if none did; such an episode counts as failed.
        discounted_return: Sum of the rewards discounted by planning.discount: what `predicted_return` predicts.
        computed_by: Kind of processor that the method computed on (`pipeline.provenance.computed_by`), None in results
            from before it was recorded.
    """

    method: str
    episode: int
    seed: int
    total_reward: float
    length: int
    terminated: bool
    truncated: bool
    success: bool | None
    predicted_return: float
    decision_ms_median: float
    decision_ms_p99: float
    batch_size: int
    attempts: int
    host: str
    error: str = ""
    discounted_return: float = float("nan")
    computed_by: str | None = None
