"""What Gymnasium's spaces say of their columns. What is not supported is refused by name."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from pipeline.errors import ConfigError, DataError

MAX_WHOLE_NUMBER = 2**24
"""Whole numbers beyond it have no float32 of their own. A space of integers without bounds has those of its type."""

_OBSERVATION_SPACES = (
    gymnasium.spaces.Box,
    gymnasium.spaces.Discrete,
    gymnasium.spaces.MultiBinary,
    gymnasium.spaces.MultiDiscrete,
)


class ObservedColumn(NamedTuple):
    """One number of an observation.

    Attributes:
        low: Its lower bound, None where it has none.
        high: Upper bound.
        states: First state and number of states, of a number that names one; None for any other.
    """

    low: float | None
    high: float | None
    states: tuple[int, int] | None = None


class ObservationPart(NamedTuple):
    """A key of a Dict observation, or a plain observation.

    Attributes:
        key: None for a plain observation.
        columns: Its numbers, in order.
    """

    key: str | None
    columns: list[ObservedColumn]


def observation_parts(space: "gymnasium.Space[Any]", keys: Sequence[str] | None) -> list[ObservationPart]:
    """Returns what an observation consists of.

    Args:
        space: Box, Discrete, MultiBinary, MultiDiscrete, or a Dict of these.
        keys: Keys of a Dict, in order; None takes all in alphabetical order.

    Raises:
        DataError: A space that is not supported.
        ConfigError: An unknown key.
    """
    if not isinstance(space, gymnasium.spaces.Dict):
        if keys is not None:
            raise ConfigError(
                f"data.observation_keys is {list(keys)}; expected null: the observation space is no Dict but {space}."
            )
        return [ObservationPart(None, _columns("observation", space))]
    names = tuple(sorted(space.spaces) if keys is None else keys)
    unknown = [name for name in names if name not in space.spaces]
    if unknown or not names or len(set(names)) < len(names):
        raise ConfigError(
            f"data.observation_keys is {list(names)}; expected different keys of {sorted(space.spaces)}, at least one."
        )
    return [ObservationPart(name, _columns(f"observation {name!r}", space.spaces[name])) for name in names]


def _columns(what: str, space: "gymnasium.Space[Any]") -> list[ObservedColumn]:
    if not isinstance(space, _OBSERVATION_SPACES):
        raise DataError(
            f"the {what} space is {space}; expected Box, Discrete, MultiBinary, MultiDiscrete, or a Dict of these. "
            "Choose other keys with data.observation_keys, or convert the data set."
        )
    if isinstance(space, gymnasium.spaces.Box):
        bounds = zip(space.low.ravel().tolist(), space.high.ravel().tolist(), strict=True)
        return [ObservedColumn(_finite(low), _finite(high)) for low, high in bounds]
    return [ObservedColumn(first, first + count - 1, (first, count)) for first, count in _states(space)]


def _states(space: "gymnasium.Space[Any]") -> list[tuple[int, int]]:
    """Returns first state and number of states of each number."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return [(int(space.start), int(space.n))]
    if isinstance(space, gymnasium.spaces.MultiDiscrete):
        return list(zip(space.start.ravel().tolist(), space.nvec.ravel().tolist(), strict=True))
    return [(0, 2)] * int(np.prod(space.shape, dtype=np.int64))


def _finite(bound: float) -> float | None:
    return float(bound) if math.isfinite(bound) else None


def action_fields(space: "gymnasium.Space[Any]") -> dict[str, Any]:
    """Returns the fields of `pipeline.data.spaces.Spaces` that say what an action is.

    Raises:
        DataError: A space that is not supported.
    """
    if isinstance(space, gymnasium.spaces.Discrete):
        return {
            "action_kind": "discrete",
            "action_dtype": str(space.dtype),
            "action_choices": int(space.n),
            "action_start": int(space.start),
        }
    if not isinstance(space, gymnasium.spaces.Box):
        raise DataError(
            f"the action space is {space}; expected Box or Discrete. Actions of several discrete parts and Dict "
            "actions are not supported."
        )
    bounded = _is_bounded(space)
    return {
        "action_shape": tuple(space.shape),
        "action_dtype": str(space.dtype),
        "action_low": tuple(map(float, space.low.ravel())) if bounded else None,
        "action_high": tuple(map(float, space.high.ravel())) if bounded else None,
    }


def _is_bounded(space: gymnasium.spaces.Box) -> bool:
    bounds = np.stack([space.low, space.high]).astype(np.float64)
    if space.dtype.kind in "iu":
        return space.is_bounded() and bool((np.abs(bounds) <= MAX_WHOLE_NUMBER).all())
    return bool(np.isfinite(bounds).all())
