"""Whether an environment is one that methods trained on some data can act in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium

from pipeline.data.manifest import read_manifest
from pipeline.data.spaces import Spaces
from pipeline.data.storage import Location
from pipeline.environments import EnvironmentConfig, make_environment, time_limit
from pipeline.errors import EnvironmentSetupError, PipelineError

_NOT_COMPARED = ("action_low", "action_high", "action_dtype")


@dataclass(frozen=True)
class FittingEnvironment:
    """What is known of an environment that fits the data.

    Attributes:
        id: Gymnasium's.
        max_episode_steps: After which it ends an episode.
        spaces: The data's; the actions' bounds are the environment's where the data names none, as D4RL's files do not.
    """

    id: str
    max_episode_steps: int
    spaces: Spaces

    def departures(self, recorded: Mapping[str, Any] | None) -> list[str]:
        """Returns, in words, what differs from the environment that the data was collected in.

        Args:
            recorded: `Manifest.environment`; None where no data set knows its own.
        """
        recorded = recorded or {}
        own = {"id": self.id, "max_episode_steps": self.max_episode_steps}
        return [
            f"environment.{name} is {value!r}, but the data was collected with {recorded[name]!r}: evaluation will be "
            "in another environment than the data's."
            for name, value in own.items()
            if recorded.get(name) is not None and recorded[name] != value
        ]


def check_environment(config: EnvironmentConfig, spaces: Spaces) -> FittingEnvironment:
    """Checks that the environment can be made, has the data's spaces, and ends its episodes.

    Raises:
        EnvironmentSetupError: It does not; the message names what differs.
    """
    environment = make_environment(config)
    try:
        found = _spaces_of(environment, spaces)
        limit, specification = time_limit(environment), environment.spec
    except PipelineError as error:
        raise EnvironmentSetupError(
            f"environment.id is {config.id!r}; expected an environment with the spaces of the data: {error}"
        ) from error
    finally:
        environment.close()
    differing = [
        f"{name} is {getattr(found, name)}, in the data {getattr(spaces, name)}"
        for name in Spaces.model_fields
        if name not in _NOT_COMPARED and getattr(found, name) != getattr(spaces, name)
    ]
    if differing:
        raise EnvironmentSetupError(
            f"environment.id is {config.id!r}; expected the spaces of the data: {'; '.join(differing)}. Choose the "
            "environment that the data was collected in, with the same environment.kwargs and wrappers."
        )
    if limit is None:
        raise EnvironmentSetupError(
            "environment.max_episode_steps is null; expected a number of steps, at least 1: "
            f"{config.id} has no limit of its own, so an episode might never end."
        )
    return FittingEnvironment(specification.id, limit, _bounded(spaces, found))


def require_environment(config: EnvironmentConfig, shards: Location) -> None:
    """Checks that what a training gives can be evaluated; prints how the environment departs from the data's.

    Args:
        config: Where the methods will act.
        shards: Where the prepared data lies.

    Raises:
        EnvironmentSetupError: The environment cannot be made, or does not have the data's spaces.
        ManifestError: Nothing is prepared.
    """
    manifest = read_manifest(shards)
    for line in check_environment(config, manifest.spaces).departures(manifest.environment):
        print(f"note: {line}", flush=True)


def tell_environment(config: EnvironmentConfig, shards: Location) -> None:
    """Prints whether the environment fits the prepared data, which can be prepared and trained on without any."""
    try:
        require_environment(config, shards)
    except EnvironmentSetupError as error:
        print(f"note: the data can be trained on, but not evaluated: {error}", flush=True)


def _bounded(spaces: Spaces, found: Spaces) -> Spaces:
    if spaces.action_low is not None and spaces.action_high is not None:
        return spaces
    return spaces.model_copy(update={"action_low": found.action_low, "action_high": found.action_high})


def _spaces_of(environment: "gymnasium.Env[Any, Any]", like: Spaces) -> Spaces:
    """Returns the environment's spaces, with the data's choice of keys and columns."""
    return Spaces.of(
        environment.observation_space,
        environment.action_space,
        keys=like.observation_keys or None,
        columns=[str(column) for column in like.observation_columns],
    )
