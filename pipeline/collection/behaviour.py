"""A behaviour as something that acts: a policy, its noise, and its share of random actions."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.collection.config import BehaviourConfig
from pipeline.collection.policy_file import FilePolicy
from pipeline.collection.scripted import CONTROLLERS
from pipeline.data.spaces import Spaces
from pipeline.errors import ConfigError

Act = Callable[[NDArray[np.float64], int, np.random.Generator], NDArray[np.float64]]


class Behaviour:
    """One behaviour of the mixture, ready to act.

    Args:
        config: Which policy, with how much noise.
        spaces: Columns of the environment's observations and actions.
        folder: What the path of a policy file is relative to.

    Raises:
        ConfigError: An unknown policy, or one that does not fit the environment.
        DataError: A policy file that cannot be read.
    """

    def __init__(self, config: BehaviourConfig, spaces: Spaces, folder: Path = Path()) -> None:
        self.config = config
        self._spaces = spaces
        if not spaces.bounds_actions:
            raise ConfigError(
                "the environment's actions have no bounds; expected bounds, between which random actions are drawn."
            )
        if spaces.action_choices is not None and config.policy != "random":
            raise ConfigError(
                f"collect.behaviours holds the policy {config.policy!r}; expected random: the environment's actions "
                "are discrete."
            )
        self._act = None if config.policy == "random" else self._fitting(self._policy(folder))

    def noise(self, generator: np.random.Generator) -> float:
        """Returns the noise of an episode, drawn if the configuration gives a range."""
        if self.config.max_noise is None:
            return self.config.noise
        return float(generator.uniform(self.config.noise, self.config.max_noise))

    def action(
        self, observation: NDArray[np.float64], step: int, noise: float, generator: np.random.Generator
    ) -> NDArray[np.float64]:
        """Returns the action (A,) at one observation, within the action space's bounds.

        Args:
            observation: (O,).
            step: Steps since the episode's start.
            noise: Standard deviation of the Gaussian noise.
            generator: Of the episode.
        """
        if self._act is None or (self.config.random_share and generator.random() < self.config.random_share):
            return self._spaces.random_action(generator)
        action = self._act(observation, step, generator)
        if noise:
            action = action + noise * generator.standard_normal(action.shape)
        return np.clip(action, self._spaces.action_low, self._spaces.action_high)

    def _fitting(self, act: Act) -> Act:
        """Returns `act`, which was tried on an observation of zeros."""
        numbers, expected = self._spaces.observation_dim, (self._spaces.action_dim,)
        try:
            shape = act(np.zeros(numbers), 0, np.random.default_rng(0)).shape
            found = f"gives actions of shape {shape}"
        except (ValueError, IndexError) as error:
            shape, found = None, f"fails there ({error})"
        if shape != expected:
            raise ConfigError(
                f"collect.behaviours holds the policy {self.config.policy!r}, which {found}; expected one for "
                f"observations of {numbers} numbers and actions of shape {expected}, the environment's."
            )
        return act

    def _policy(self, folder: Path) -> Act:
        name, sample = self.config.policy, self.config.sample
        if name.endswith(".npz"):
            policy = FilePolicy(folder / name)
            if sample and not policy.has_gaussian:
                raise ConfigError(
                    f"collect.behaviours asks for samples of the policy {name!r}; expected one with a Gaussian of its "
                    "own, or no `sample`."
                )
            return lambda observation, step, generator: policy.act(observation, step, generator if sample else None)
        if name not in CONTROLLERS:
            raise ConfigError(
                f"collect.behaviours holds the policy {name!r}; expected random, one of {sorted(CONTROLLERS)}, or the "
                "path of a policy file (.npz)."
            )
        controller = CONTROLLERS[name]
        return lambda observation, _step, _generator: controller(observation)
