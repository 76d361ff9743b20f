"""Gymnasium environments made from a configuration."""

import importlib
from typing import Any

import gymnasium
from pydantic import Field

from pipeline.configuration import Config
from pipeline.errors import EnvironmentSetupError


class WrapperConfig(Config):
    """One wrapper around the environment."""

    name: str = Field(
        ..., description="Class of gymnasium.wrappers, for example FlattenObservation, or `module:Class` of your own."
    )
    kwargs: dict[str, Any] = Field({}, description="Keyword arguments of the wrapper.")


class EnvironmentConfig(Config):
    """The environment that behaviour is collected in and that methods are evaluated in."""

    id: str = Field(
        "InvertedPendulum-v5", description="Gymnasium id, for example Hopper-v5, or `module:Id`, which imports module."
    )
    max_episode_steps: int | None = Field(
        None, ge=1, description="Time limit in environment steps, at least 1; null keeps the environment's own."
    )
    kwargs: dict[str, Any] = Field({}, description="Keyword arguments of gymnasium.make.")
    wrappers: tuple[WrapperConfig, ...] = Field((), description="Wrappers, the innermost first: [{name, kwargs}, ...].")


def make_environment(config: EnvironmentConfig, **overrides: Any) -> gymnasium.Env[Any, Any]:
    """Returns the environment of `config`, wrapped.

    Args:
        config: Which environment.
        **overrides: Further keyword arguments of `gymnasium.make`, for example `render_mode`.

    Raises:
        EnvironmentSetupError: Gymnasium does not know the id, the environment refuses its arguments, or a wrapper is
            unknown or refuses its own.
    """
    arguments = {**config.kwargs, **overrides}
    try:
        environment = gymnasium.make(config.id, max_episode_steps=config.max_episode_steps, **arguments)
    except (gymnasium.error.Error, ImportError, TypeError, ValueError, LookupError, AssertionError, OSError) as error:
        raise EnvironmentSetupError(
            f"environment.id is {config.id!r}; expected an environment that gymnasium.make can make with the arguments "
            f"{arguments} ({type(error).__name__}: {error}). List them with gymnasium.pprint_registry()."
        ) from error
    for i, wrapper in enumerate(config.wrappers):
        environment = _wrapped(environment, wrapper, f"environment.wrappers[{i}]")
    return environment


def time_limit(environment: gymnasium.Env[Any, Any]) -> int | None:
    """Returns the environment steps after which Gymnasium ends an episode, None where nothing does."""
    return environment.spec.max_episode_steps if environment.spec else None


def _wrapped(environment: gymnasium.Env[Any, Any], config: WrapperConfig, path: str) -> gymnasium.Env[Any, Any]:
    module, _, name = config.name.rpartition(":")
    try:
        wrapper = getattr(importlib.import_module(module or "gymnasium.wrappers"), name)
    except (ImportError, AttributeError) as error:
        raise EnvironmentSetupError(
            f"{path}.name is {config.name!r}; expected a class of gymnasium.wrappers or `module:Class` ({error})."
        ) from error
    if not (isinstance(wrapper, type) and issubclass(wrapper, gymnasium.Wrapper)):
        raise EnvironmentSetupError(f"{path}.name is {config.name!r}; expected a subclass of gymnasium.Wrapper.")
    try:
        return wrapper(environment, **config.kwargs)
    except (TypeError, ValueError, AssertionError) as error:
        raise EnvironmentSetupError(
            f"{path}.kwargs is {config.kwargs}; expected what {config.name} takes ({error})."
        ) from error
