"""How an environment's observations and actions become columns of numbers, and back.

Recorded in the manifest, so that evaluation flattens exactly as prepare did. What is not supported is refused by name.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import gymnasium
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from pipeline.errors import ConfigError, DataError

_OBSERVATION_SPACES = (
    gymnasium.spaces.Box,
    gymnasium.spaces.Discrete,
    gymnasium.spaces.MultiBinary,
    gymnasium.spaces.MultiDiscrete,
)


class Spaces(BaseModel):
    """Which columns observations and actions are.

    Shape letters: O observation_dim, A action_dim.

    Attributes:
        observation_keys: Keys of a Dict observation in the order in which they are flattened; () for a plain one.
        observation_sizes: Numbers of each key, or of the plain observation.
        observation_columns: Columns kept of the flattened observation, O of them.
        action_kind: `box`, or `discrete`: one column that holds the index of the choice.
        action_shape: Shape that the environment takes; () for a discrete action.
        action_dtype: Its dtype.
        action_choices: n of a discrete action, else None.
        action_start: The environment's first choice, which is index 0 here.
        action_low: Lower bound of each action column; None where the space has none or is not known.
        action_high: Upper bound.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    observation_keys: tuple[str, ...] = ()
    observation_sizes: tuple[int, ...]
    observation_columns: tuple[int, ...]
    action_kind: Literal["box", "discrete"] = "box"
    action_shape: tuple[int, ...] = ()
    action_dtype: str = "float32"
    action_choices: int | None = None
    action_start: int = 0
    action_low: tuple[float, ...] | None = None
    action_high: tuple[float, ...] | None = None

    @classmethod
    def plain(cls, observation_dim: int, action_dim: int) -> "Spaces":
        """Returns the spaces of flat observations and continuous actions without known bounds."""
        return cls(
            observation_sizes=(observation_dim,),
            observation_columns=tuple(range(observation_dim)),
            action_shape=(action_dim,),
        )

    @classmethod
    def of(
        cls,
        observation_space: "gymnasium.Space[Any]",
        action_space: "gymnasium.Space[Any]",
        keys: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
    ) -> "Spaces":
        """Returns how the given spaces become columns.

        Args:
            observation_space: Box, Discrete, MultiBinary, MultiDiscrete, or a Dict of these.
            action_space: Box or Discrete.
            keys: Keys of a Dict observation, in order; None takes all in alphabetical order.
            columns: Columns kept, as indices and ranges such as `0:27`; None keeps all.

        Raises:
            DataError: A space that is not supported.
            ConfigError: An unknown key or a column that does not exist.
        """
        names, sizes = _observation_parts(observation_space, keys)
        return cls(
            observation_keys=names,
            observation_sizes=sizes,
            observation_columns=select_columns(columns, sum(sizes)),
            **_action_fields(action_space),
        )

    @property
    def observation_dim(self) -> int:
        """O, columns kept."""
        return len(self.observation_columns)

    @property
    def action_dim(self) -> int:
        """A; 1 for a discrete action."""
        return int(np.prod(self.action_shape, dtype=np.int64)) if self.action_kind == "box" else 1

    @property
    def observation_names(self) -> tuple[str, ...]:
        """One name per kept column, such as `observation[3]` or `desired_goal[0]`."""
        keys = self.observation_keys or ("observation",)
        names = [f"{key}[{i}]" for key, size in zip(keys, self.observation_sizes, strict=True) for i in range(size)]
        return tuple(names[column] for column in self.observation_columns)

    def flatten_observation(self, observation: Any) -> NDArray[np.float64]:
        """Returns the (O,) columns of one observation as the environment gives it.

        Raises:
            DataError: The observation has another shape, or lacks a key.
        """
        if self.observation_keys:
            rows = self.flatten_observations({key: [observation[key]] for key in self.observation_keys}, 1)
        else:
            rows = self.flatten_observations([observation], 1)
        return np.asarray(rows[0], dtype=np.float64)

    def flatten_observations(self, observations: Any, length: int) -> NDArray[np.float64]:
        """Returns the (length, O) columns of stacked observations.

        Args:
            observations: One array, or a mapping from key to array, `length` along the first axis.
            length: Observations.

        Raises:
            DataError: Other shapes than the spaces have, or a missing key.
        """
        parts = [observations]
        if self.observation_keys:
            if not isinstance(observations, Mapping) or not set(self.observation_keys) <= observations.keys():
                found = sorted(observations) if isinstance(observations, Mapping) else type(observations).__name__
                raise DataError(f"observations is {found}; expected the keys {list(self.observation_keys)}.")
            parts = [observations[key] for key in self.observation_keys]
        columns: list[NDArray[np.float64]] = []
        for part, size in zip(parts, self.observation_sizes, strict=True):
            array = np.asarray(part)
            if array.dtype.kind not in "fiub" or len(array) != length or array.size != length * size:
                raise DataError(
                    f"observations has the shape {array.shape} and the type {array.dtype}; expected {length} rows of "
                    f"{size} numbers."
                )
            columns.append(array.reshape(length, size).astype(np.float64, copy=False))
        flat = columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)
        chosen: NDArray[np.float64] = flat[:, self.observation_columns]
        return chosen

    def flatten_actions(self, actions: Any, length: int) -> NDArray[np.float64]:
        """Returns the (length, A) columns of stacked actions; a discrete one becomes the index of its choice.

        Raises:
            DataError: Other shapes than the space has, or a choice that does not exist.
        """
        array = np.asarray(actions)
        if array.dtype.kind not in "fiub" or len(array) != length or array.size != length * self.action_dim:
            raise DataError(
                f"actions has the shape {array.shape} and the type {array.dtype}; expected {length} rows of "
                f"{self.action_dim} numbers."
            )
        flat = array.reshape(length, self.action_dim).astype(np.float64) - self.action_start
        if self.action_choices is not None and length and not 0 <= flat.min() <= flat.max() < self.action_choices:
            raise DataError(
                f"actions holds the choices {array.min()} to {array.max()}; expected {self.action_start} to "
                f"{self.action_start + self.action_choices - 1}."
            )
        return flat

    @property
    def bounds_actions(self) -> bool:
        """Whether random actions can be drawn: of the choices, or between finite bounds."""
        return self.action_choices is not None or (self.action_low is not None and self.action_high is not None)

    def random_action(self, generator: np.random.Generator) -> NDArray[np.float64]:
        """Returns an action (A,), all of them equally likely; needs `bounds_actions`."""
        if self.action_choices is not None:
            return np.array([generator.integers(self.action_choices)], dtype=np.float64)
        return generator.uniform(np.array(self.action_low), np.array(self.action_high))

    def environment_action(self, action: NDArray[np.floating]) -> Any:
        """Returns what `env.step` takes for the columns `action` (A,)."""
        if self.action_kind == "discrete":
            return self.action_start + round(float(action[0]))
        return np.asarray(action).reshape(self.action_shape).astype(self.action_dtype)


def select_columns(columns: Sequence[str] | None, size: int) -> tuple[int, ...]:
    """Returns the indices that texts such as `3` and `0:27` name among `size` columns, in the order given.

    Raises:
        ConfigError: A text that is neither, a column that does not exist, or one named twice.
    """
    if columns is None:
        return tuple(range(size))
    chosen: list[int] = []
    for text in columns:
        first, colon, last = str(text).partition(":")
        try:
            chosen += range(int(first or 0), int(last or size)) if colon else [int(first)]
        except ValueError:
            raise ConfigError(
                f"data.observation_columns holds {text!r}; expected an index such as '3' or a range such as '0:27'."
            ) from None
    if not chosen or min(chosen) < 0 or max(chosen) >= size or len(set(chosen)) < len(chosen):
        raise ConfigError(
            f"data.observation_columns is {list(columns)}; expected different columns of 0 to {size - 1}, at least one."
        )
    return tuple(chosen)


def _observation_parts(
    space: "gymnasium.Space[Any]", keys: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    if not isinstance(space, gymnasium.spaces.Dict):
        if keys is not None:
            raise ConfigError(
                f"data.observation_keys is {list(keys)}; expected null: the observation space is no Dict but {space}."
            )
        return (), (_size("observation", space),)
    names = tuple(sorted(space.spaces) if keys is None else keys)
    unknown = [name for name in names if name not in space.spaces]
    if unknown or not names or len(set(names)) < len(names):
        raise ConfigError(
            f"data.observation_keys is {list(names)}; expected different keys of {sorted(space.spaces)}, at least one."
        )
    return names, tuple(_size(f"observation {name!r}", space.spaces[name]) for name in names)


def _size(what: str, space: "gymnasium.Space[Any]") -> int:
    if not isinstance(space, _OBSERVATION_SPACES):
        raise DataError(
            f"the {what} space is {space}; expected Box, Discrete, MultiBinary, MultiDiscrete, or a Dict of these. "
            "Choose other keys with data.observation_keys, or convert the data set."
        )
    return int(np.prod(space.shape or (1,), dtype=np.int64))


def _action_fields(space: "gymnasium.Space[Any]") -> dict[str, Any]:
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
    bounded = bool(np.isfinite(space.low).all() and np.isfinite(space.high).all())
    return {
        "action_shape": tuple(space.shape),
        "action_dtype": str(space.dtype),
        "action_low": tuple(space.low.ravel().tolist()) if bounded else None,
        "action_high": tuple(space.high.ravel().tolist()) if bounded else None,
    }
