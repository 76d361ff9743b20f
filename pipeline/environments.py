"""Gymnasium environments made from a configuration."""

import importlib
import logging
import sys
from typing import Any

import gymnasium
from pydantic import Field

from pipeline.configuration import Config
from pipeline.errors import EnvironmentFaultError, EnvironmentSetupError
from pipeline.foreign_code import call_foreign

_log = logging.getLogger(__name__)

_warnings_of_mujoco: set[str] = set()


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
    wrappers: tuple[WrapperConfig, ...] = Field(
        (),
        description="Wrappers, the innermost first: [{name, kwargs}, ...]. Each episode has an environment of its own, "
        "so running statistics (NormalizeObservation) begin anew; give fixed ones to a wrapper of your own as kwargs.",
    )


def make_environment(config: EnvironmentConfig, **overrides: Any) -> gymnasium.Env[Any, Any]:
    """Returns the environment of `config`, wrapped.

    Args:
        config: Which environment.
        **overrides: Further keyword arguments of `gymnasium.make`, for example `render_mode`.

    Raises:
        EnvironmentSetupError: Gymnasium does not know the id, the environment's constructor raises, or a wrapper is
            unknown or raises; the message has what was raised and where.
    """
    arguments = {**config.kwargs, **overrides}
    environment = call_foreign(
        lambda: gymnasium.make(config.id, max_episode_steps=config.max_episode_steps, **arguments),
        lambda told: EnvironmentSetupError(
            f"environment.id is {config.id!r}; expected an environment that gymnasium.make can make with the arguments "
            f"{arguments} ({told}). gymnasium.pprint_registry() lists those that are known."
        ),
    )
    _hear_mujoco()
    for i, wrapper in enumerate(config.wrappers):
        environment = _wrapped(environment, wrapper, f"environment.wrappers[{i}]")
    return environment


def _hear_mujoco() -> None:
    """Has MuJoCo, if it was imported, give its warnings to `_tell_once`.

    By itself it prints them, and writes them into the working directory, for each environment that is made: with
    HalfCheetah-v5 a line for each episode.
    """
    mujoco = sys.modules.get("mujoco")
    if mujoco and mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(_tell_once)


def _tell_once(warning: str) -> None:
    if warning not in _warnings_of_mujoco:
        _warnings_of_mujoco.add(warning)
        _log.warning("MuJoCo: %s", warning)


def close_environment(environment: gymnasium.Env[Any, Any]) -> None:
    """Closes an environment; one that cannot be closed, a viewer's window say, has its work behind it."""
    try:
        call_foreign(
            environment.close, lambda told: EnvironmentFaultError(f"an environment raised when it was closed: {told}")
        )
    except EnvironmentFaultError as error:
        _log.warning("%s", error)


def time_limit(environment: gymnasium.Env[Any, Any]) -> int | None:
    """Returns the environment steps after which Gymnasium ends an episode, None where nothing does."""
    return environment.spec.max_episode_steps if environment.spec else None


def _wrapped(environment: gymnasium.Env[Any, Any], config: WrapperConfig, path: str) -> gymnasium.Env[Any, Any]:
    module, _, name = config.name.rpartition(":")
    wrapper = call_foreign(
        lambda: getattr(importlib.import_module(module or "gymnasium.wrappers"), name),
        lambda told: EnvironmentSetupError(
            f"{path}.name is {config.name!r}; expected a class of gymnasium.wrappers or `module:Class` ({told})."
        ),
    )
    if not (isinstance(wrapper, type) and issubclass(wrapper, gymnasium.Wrapper)):
        raise EnvironmentSetupError(f"{path}.name is {config.name!r}; expected a subclass of gymnasium.Wrapper.")
    return call_foreign(
        lambda: wrapper(environment, **config.kwargs),
        lambda told: EnvironmentSetupError(
            f"{path}.kwargs is {config.kwargs}; expected what {config.name} takes ({told})."
        ),
    )
