"""How an environment's observations and actions become columns of numbers, and back.

Recorded in the manifest, so that evaluation flattens exactly as prepare did.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import gymnasium
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from pipeline.data.gymnasium_spaces import action_fields, observation_parts
from pipeline.errors import ConfigError, DataError


class Spaces(BaseModel):
    """Which columns observations and actions are.

    Shape letters: O observation_dim, A action_dim.

    Attributes:
        observation_keys: Keys of a Dict observation in the order in which they are flattened; () for a plain one.
        observation_sizes: Numbers of each key, or of the plain observation.
        observation_columns: Columns kept of the flattened observation, O of them.
        observation_low: Lower bound of each kept column, None where it has none; None altogether where not known.
        observation_high: Upper bound.
        observation_states: First state and number of states of each kept column that names one (Discrete,
            MultiDiscrete, MultiBinary), None for any other column; None altogether where not known.
        action_kind: `box`, or `discrete`: one column that holds the index of the choice.
        action_shape: Shape that the environment takes; () for a discrete action.
        action_dtype: Its dtype; one of integers has whole numbers only.
        action_choices: n of a discrete action, else None.
        action_start: The environment's first choice, which is index 0 here.
        action_low: Lower bound of each action column; None where the space has none or is not known.
        action_high: Upper bound.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    observation_keys: tuple[str, ...] = ()
    observation_sizes: tuple[int, ...]
    observation_columns: tuple[int, ...]
    observation_low: tuple[float | None, ...] | None = None
    observation_high: tuple[float | None, ...] | None = None
    observation_states: tuple[tuple[int, int] | None, ...] | None = None
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
        parts = observation_parts(observation_space, keys)
        numbers = [number for part in parts for number in part.columns]
        chosen = select_columns(columns, len(numbers))
        return cls(
            observation_keys=tuple(part.key for part in parts if part.key is not None),
            observation_sizes=tuple(len(part.columns) for part in parts),
            observation_columns=chosen,
            observation_low=tuple(numbers[column].low for column in chosen),
            observation_high=tuple(numbers[column].high for column in chosen),
            observation_states=tuple(numbers[column].states for column in chosen),
            **action_fields(action_space),
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
    def action_names(self) -> tuple[str, ...]:
        """One name per action column, such as `action[0]`."""
        return tuple(f"action[{i}]" for i in range(self.action_dim))

    @property
    def column_states(self) -> tuple[range | None, ...]:
        """What each observation and action column can be; None for one of any numbers, or where it is not known."""
        observed = self.observation_states or (None,) * self.observation_dim
        states = [None if one is None else range(one[0], one[0] + one[1]) for one in observed]
        if self.action_choices is not None:
            return (*states, range(self.action_choices))
        if not self.has_whole_actions or self.action_low is None or self.action_high is None:
            return (*states, *(None,) * self.action_dim)
        bounds = zip(self.action_low, self.action_high, strict=True)
        return (*states, *(range(round(low), round(high) + 1) for low, high in bounds))

    @property
    def has_whole_actions(self) -> bool:
        """Whether the environment's actions are whole numbers: choices, or a Box of integers."""
        return np.dtype(self.action_dtype).kind in "iub"

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
        low, high = np.array(self.action_low), np.array(self.action_high)
        if self.has_whole_actions:
            # Rounding numbers of the whole range would give the outer ones half as often as the others.
            return generator.integers(low.astype(np.int64), high.astype(np.int64), endpoint=True).astype(np.float64)
        return generator.uniform(low, high)

    def nearest_action(self, action: NDArray[np.floating]) -> NDArray[np.float64]:
        """Returns the action (A,) of the space that lies nearest to `action` (A,): rounded, within bounds."""
        nearest = np.array(action, dtype=np.float64)
        if self.has_whole_actions:
            nearest = np.rint(nearest)
        if self.action_low is not None and self.action_high is not None:
            nearest = nearest.clip(self.action_low, self.action_high)
        return nearest

    def environment_action(self, action: NDArray[np.floating]) -> Any:
        """Returns what `env.step` takes for the columns `action` (A,), which become the nearest action of the space.

        Raises:
            DataError: A NaN where actions are whole numbers: it would become the least one of their type.
        """
        nearest = self.nearest_action(action)
        if self.has_whole_actions and np.isnan(nearest).any():
            raise DataError(f"an action is {nearest.tolist()}; expected numbers, which whole ones lie near to.")
        if self.action_kind == "discrete":
            return self.action_start + int(nearest[0])
        return nearest.reshape(self.action_shape).astype(self.action_dtype)


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
