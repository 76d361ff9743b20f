"""What a data set records of the environment that it was collected in: its spaces, and how Gymnasium makes it again."""

import copy
import sys
from dataclasses import dataclass
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec


@dataclass(frozen=True)
class Origin:
    """The environment of a data set.

    Attributes:
        observation_space, action_space: Gymnasium's.
        specification: Gymnasium's, None where it cannot be written down.
        not_recorded: Why there is none, else "".
    """

    observation_space: "gymnasium.Space[Any]"
    action_space: "gymnasium.Space[Any]"
    specification: EnvSpec | None
    not_recorded: str = ""

    @classmethod
    def of(cls, environment: "gymnasium.Env[Any, Any]") -> "Origin":
        """Returns what can be recorded of an environment."""
        spaces = environment.observation_space, environment.action_space
        try:
            specification = _with_names(environment.spec)
            specification.to_json()
        except (TypeError, ValueError) as error:
            return cls(*spaces, None, str(error))
        return cls(*spaces, specification)

    def stand_in(self) -> "gymnasium.Env[Any, Any]":
        """Returns what Minari asks of an environment, which is never stepped: spaces and specification."""
        environment = gymnasium.Env()
        environment.observation_space, environment.action_space = self.observation_space, self.action_space
        environment.spec = self.specification
        return environment


def _with_names(specification: EnvSpec) -> EnvSpec:
    """Returns the specification with classes and functions as `module:Name`, as far as they are found under it.

    `gymnasium.register` takes either, JSON the names alone.
    """
    named = copy.copy(specification)
    named.entry_point = _name(specification.entry_point)
    named.vector_entry_point = _name(specification.vector_entry_point)
    return named


def _name(entry_point: Any) -> Any:
    if not callable(entry_point):
        return entry_point
    module, name = getattr(entry_point, "__module__", ""), getattr(entry_point, "__qualname__", "")
    # A script's own classes are found under __main__ by this process alone.
    found = module != "__main__" and getattr(sys.modules.get(module), name, None) is entry_point
    return f"{module}:{name}" if found else entry_point
