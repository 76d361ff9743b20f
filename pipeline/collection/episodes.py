"""Behaviour episodes: what one does is fixed by the configuration, the seed and its number."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from pipeline.collection.behaviour import Behaviour
from pipeline.collection.config import BehaviourConfig
from pipeline.collection.origin import Origin
from pipeline.data.spaces import Spaces
from pipeline.environments import EnvironmentConfig, close_environment, make_environment, time_limit
from pipeline.errors import ConfigError, EnvironmentFaultError
from pipeline.live_episode import LiveEpisode
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

    Every episode gets an environment of its own, as in evaluation: what a wrapper such as NormalizeReward gathers would
    else depend on which episodes the same process collected before.

    Attributes:
        max_steps: The time limit of an episode.
        origin: What a data set records of the environment.

    Args:
        environment: Where.
        behaviours: The mixture.
        seed: Root seed.
        folder: What the paths of policy files are relative to.

    Raises:
        EnvironmentSetupError: An environment that cannot be made.
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
        self._environment, self._seed = environment, seed
        made = make_environment(environment)
        try:
            self.max_steps = _time_limit(environment, made)
            self.origin = Origin.of(made)
        finally:
            close_environment(made)
        self._spaces = Spaces.of(self.origin.observation_space, self.origin.action_space)
        self._behaviours = [Behaviour(config, self._spaces, folder) for config in behaviours]
        weights = np.array([config.weight for config in behaviours])
        self._shares = weights / weights.sum()

    def collect(self, episode: int) -> CollectedEpisode:
        """Returns episode number `episode`.

        Raises:
            EnvironmentSetupError: The environment cannot be made.
            EnvironmentFaultError: It raised, or gave what Gymnasium does not foresee; the message has its error.
        """
        environment = make_environment(self._environment)
        try:
            return self._play(environment, episode)
        except EnvironmentFaultError as error:
            raise EnvironmentFaultError(
                f"environment.id is {self._environment.id!r}, whose episode {episode} failed: {error}. Put the "
                "environment right, or a wrapper around it (environment.wrappers)."
            ) from error
        finally:
            close_environment(environment)

    def _play(self, environment: "gymnasium.Env[Any, Any]", episode: int) -> CollectedEpisode:
        generator = stream(self._seed, "behaviour", episode)
        behaviour = self._behaviours[int(generator.choice(len(self._behaviours), p=self._shares))]
        noise, seed = behaviour.noise(generator), derived_seed(self._seed, "collect reset", episode)
        live = LiveEpisode(environment, self._spaces)
        live.reset(seed)
        observations, actions, rewards = [live.observation], list[Any](), list[float]()
        while True:
            step = live.step(behaviour.action(live.columns, live.steps, noise, generator))
            observations.append(live.observation)
            actions.append(step.action)
            rewards.append(step.reward)
            if step.terminated or step.truncated:
                break
        return CollectedEpisode(
            observations={key: np.stack([row[key] for row in observations]) for key in live.observation},
            actions=np.asarray(actions, dtype=self.origin.action_space.dtype),
            rewards=np.array(rewards, dtype=np.float64),
            terminated=step.terminated,
            truncated=step.truncated,
            policy=behaviour.config.policy,
            noise=noise,
            seed=seed,
        )


def _time_limit(config: EnvironmentConfig, environment: "gymnasium.Env[Any, Any]") -> int:
    limit = time_limit(environment)
    if limit is None:
        raise ConfigError(
            f"environment.max_episode_steps is null and {config.id} has no time limit of its own; expected a number of "
            "steps, at least 1, after which an episode ends."
        )
    return limit
