"""Gymnasium environments made from a configuration."""

from typing import Any

import gymnasium
from pydantic import Field

from pipeline.configuration import Config
from pipeline.errors import EnvironmentSetupError


class EnvironmentConfig(Config):
    """The environment that behaviour is collected in and that methods are evaluated in."""

    id: str = Field("InvertedPendulum-v5", description="Gymnasium id, for example Hopper-v5.")
    max_episode_steps: int | None = Field(
        None, ge=1, description="Time limit in environment steps, at least 1; null keeps the environment's own."
    )
    kwargs: dict[str, Any] = Field({}, description="Keyword arguments of gymnasium.make.")


def make_environment(config: EnvironmentConfig, **overrides: Any) -> gymnasium.Env[Any, Any]:
    """Returns the environment of `config`.

    Args:
        config: Which environment.
        **overrides: Further keyword arguments of `gymnasium.make`, for example `render_mode`.

    Raises:
        EnvironmentSetupError: Gymnasium does not know the id, or the environment refuses its arguments.
    """
    try:
        return gymnasium.make(config.id, max_episode_steps=config.max_episode_steps, **{**config.kwargs, **overrides})
    except (gymnasium.error.Error, TypeError, ImportError) as error:
        raise EnvironmentSetupError(
            f"environment.id is {config.id!r}; expected an environment that gymnasium.make can make ({error}). "
            "List them with gymnasium.pprint_registry()."
        ) from error
