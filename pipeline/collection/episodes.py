"""Behaviour episodes: what one does is fixed by the configuration, the seed and its number."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.collection.behaviour import Behaviour
from pipeline.collection.config import BehaviourConfig
from pipeline.data.spaces import Spaces
from pipeline.environments import EnvironmentConfig, make_environment, time_limit
from pipeline.errors import ConfigError
from pipeline.seeding import derived_seed, stream


@dataclass(frozen=True)
class CollectedEpisode:
    """One episode as the environment gave it.

    Attributes:
        observations: Key to (T + 1, ...); the key of a plain observation is "".
        actions: (T, ...) as passed to the environment.
        rewards: (T,).
        terminated, truncated: Of the last step.
        policy: Name of the behaviour's policy.
        noise: Standard deviation of its noise.
        seed: Of the environment's reset.
    """

    observations: dict[str, NDArray[Any]]
    actions: NDArray[Any]
    rewards: NDArray[np.float64]
    terminated: bool
    truncated: bool
    policy: str
    noise: float
    seed: int


class Collector:
    """Collects single episodes; each one is the same whoever collects it.

    Args:
        environment: Where.
        behaviours: The mixture.
        seed: Root seed.
        folder: What the paths of policy files are relative to.

    Raises:
        EnvironmentSetupError: An unknown environment.
        DataError: Observations or actions of a kind that is not supported, a policy file that cannot be read.
        ConfigError: A behaviour that does not fit the environment, or episodes without a limit.
    """

    def __init__(
        self,
        environment: EnvironmentConfig,
        behaviours: Sequence[BehaviourConfig],
        seed: int,
        folder: Path = Path(),
    ) -> None:
        self.environment = make_environment(environment)
        limit = time_limit(self.environment)
        if limit is None:
            raise ConfigError(
                f"environment.max_episode_steps is null and {environment.id} has no time limit of its own; expected a "
                "number of steps, at least 1, after which an episode ends."
            )
        self.max_steps, self._seed = limit, seed
        """The time limit of an episode."""
        self._spaces = Spaces.of(self.environment.observation_space, self.environment.action_space)
        self._behaviours = [Behaviour(config, self._spaces, folder) for config in behaviours]
        weights = np.array([config.weight for config in behaviours])
        self._shares = weights / weights.sum()

    def collect(self, episode: int) -> CollectedEpisode:
        """Returns episode number `episode`."""
        generator = stream(self._seed, "behaviour", episode)
        behaviour = self._behaviours[int(generator.choice(len(self._behaviours), p=self._shares))]
        noise, seed = behaviour.noise(generator), derived_seed(self._seed, "collect reset", episode)
        observation, _ = self.environment.reset(seed=seed)
        observations, actions = [observation], []
        rewards: list[float] = []
        terminated = truncated = False
        while not (terminated or truncated):
            columns = behaviour.action(self._spaces.flatten_observation(observation), len(rewards), noise, generator)
            action = self._spaces.environment_action(columns)
            observation, reward, terminated, truncated, _ = self.environment.step(action)
            observations.append(observation)
            actions.append(action)
            rewards.append(float(reward))
        return CollectedEpisode(
            observations=self._stack(observations),
            actions=np.asarray(actions, dtype=self.environment.action_space.dtype),
            rewards=np.array(rewards, dtype=np.float64),
            terminated=bool(terminated),
            truncated=bool(truncated),
            policy=behaviour.config.policy,
            noise=noise,
            seed=seed,
        )

    def _stack(self, observations: list[Any]) -> dict[str, NDArray[Any]]:
        if not self._spaces.observation_keys:
            return {"": np.stack(observations)}
        return {key: np.stack([row[key] for row in observations]) for key in self._spaces.observation_keys}
