"""Whether an environment is one that methods trained on some data can act in."""

import functools
from dataclasses import dataclass
from typing import Any

import gymnasium

from pipeline.beside import Beside
from pipeline.data.manifest import Manifest, read_manifest
from pipeline.data.spaces import Spaces
from pipeline.data.storage import Location
from pipeline.environments import EnvironmentConfig, close_environment, make_environment, time_limit
from pipeline.errors import EnvironmentSetupError, PipelineError
from pipeline.evaluation.departures import departures, impossible, specification


@dataclass(frozen=True)
class FittingEnvironment:
    """What is known of an environment that fits the data.

    Attributes:
        specification: Its id, max_episode_steps, kwargs and additional_wrappers, as Gymnasium has them.
        spaces: Its own, with the data's choice of keys and columns.
    """

    specification: dict[str, Any]
    spaces: Spaces

    def departures(self, manifest: Manifest) -> list[str]:
        """Returns, in words, what differs from the environment that the data was collected in and may be meant so."""
        return departures(self.specification, self.spaces, manifest)


def check_environment(config: EnvironmentConfig, spaces: Spaces) -> FittingEnvironment:
    """Checks that the environment can be made, is one that the data's actions and observations fit, and ends episodes.

    Raises:
        EnvironmentSetupError: It does not; the message names what differs.
    """
    environment = make_environment(config)
    try:
        found = _spaces_of(environment, spaces)
        limit, found_as = time_limit(environment), environment.spec
    except PipelineError as error:
        raise EnvironmentSetupError(
            f"environment.id is {config.id!r}; expected an environment with the spaces of the data: {error}"
        ) from error
    finally:
        close_environment(environment)
    if differing := impossible(found, spaces):
        raise EnvironmentSetupError(
            f"environment.id is {config.id!r}; expected the spaces of the data: {'; '.join(differing)}. Choose the "
            "environment that the data was collected in, with the same environment.kwargs and wrappers."
        )
    if limit is None:
        raise EnvironmentSetupError(
            "environment.max_episode_steps is null; expected a number of steps, at least 1: "
            f"{config.id} has no limit of its own, so an episode might never end."
        )
    return FittingEnvironment(specification(found_as), found)


def require_environment(config: EnvironmentConfig, manifest: Manifest) -> None:
    """Checks that what is learnt from some data can act in the environment; tells how that departs from the data's.

    Args:
        config: Where the methods will act.
        manifest: Of the data.

    Raises:
        EnvironmentSetupError: The environment cannot be made, or does not have the data's spaces.
    """
    for line in check_environment(config, manifest.spaces).departures(manifest):
        _tell(line)


def tell_environment(config: EnvironmentConfig, shards: Location) -> None:
    """Prints whether the environment fits the prepared data, which can be prepared and trained on without any."""
    manifest = Beside().do(lambda: read_manifest(shards), "Reading the manifest of the shards")
    try:
        require_environment(config, manifest)
    except EnvironmentSetupError as error:
        _tell(f"the data can be trained on, but not evaluated: {error}")


@functools.cache
def _tell(line: str) -> None:
    """Prints a note once in a process: jobs/run.py looks before the training, and its evaluation looks again."""
    print(f"note: {line}", flush=True)


def _spaces_of(environment: "gymnasium.Env[Any, Any]", like: Spaces) -> Spaces:
    """Returns the environment's spaces, with the data's choice of keys, and of columns if they are as many."""
    sides = environment.observation_space, environment.action_space
    entire = Spaces.of(*sides, keys=like.observation_keys or None)
    if entire.observation_sizes != like.observation_sizes:
        return entire
    columns = [str(column) for column in like.observation_columns]
    return Spaces.of(*sides, keys=like.observation_keys or None, columns=columns)
