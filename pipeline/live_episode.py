"""An episode under way: what its environment answers, copied and checked.

Whoever acts in an environment acts through this, so that collection and evaluation see the same and fail in the same
words. Whether numbers are finite is left to them: an evaluation's episode fails, data is judged when it is prepared.

Shape letters: O observation_dim, A action_dim.
"""

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from pipeline.data.spaces import Spaces
from pipeline.errors import DataError, EnvironmentFaultError
from pipeline.foreign_code import call_foreign


@dataclass(frozen=True)
class Step:
    """What one step led to.

    Attributes:
        action: As the environment was given it.
        reward: A number, perhaps NaN.
        terminated, truncated: Whether the episode ended, and how.
        info: The environment's own.
    """

    action: Any
    reward: float
    terminated: bool
    truncated: bool
    info: Mapping[str, Any]


class LiveEpisode:
    """One episode in an environment.

    Attributes:
        observation: The last one. Key to array, in the shapes of the environment's space; the key of a plain one is "".
        columns: Its (O,) columns.
        steps: That were made.

    Args:
        environment: Whose observations and actions are those of `spaces`.
        spaces: The columns.
    """

    def __init__(self, environment: "gymnasium.Env[Any, Any]", spaces: Spaces) -> None:
        self.observation: dict[str, NDArray[Any]] = {}
        self.columns: NDArray[np.float64] = np.full(spaces.observation_dim, np.nan)
        self.steps = 0
        self._environment, self._spaces = environment, spaces
        space = environment.observation_space
        self._shapes = {key: space[key].shape for key in spaces.observation_keys} or {"": space.shape}

    def reset(self, seed: int) -> None:
        """Begins the episode.

        Raises:
            EnvironmentFaultError: The environment raised, or gave something else than Gymnasium's reset.
        """
        answer = _called("reset(seed)", partial(self._environment.reset, seed=seed))
        observation, _ = _parts("reset(seed)", answer, "observation", "info")
        self._take("reset(seed)", observation)

    def step(self, columns: NDArray[np.float64]) -> Step:
        """Makes one step with the action `columns` (A,).

        Raises:
            EnvironmentFaultError: The environment raised, or gave something else than Gymnasium's step, or the action
                is none of its space.
        """
        self.steps += 1
        where = f"step {self.steps}"
        # Two of them, because some environments scale or clip the action that they are given in place.
        try:
            action, given = self._spaces.environment_action(columns), self._spaces.environment_action(columns)
        except DataError as error:
            raise EnvironmentFaultError(f"{where} is due, and {error}") from error
        answer = _called(where, partial(self._environment.step, given))
        observation, reward, terminated, truncated, info = _parts(
            where, answer, "observation", "reward", "terminated", "truncated", "info"
        )
        self._take(where, observation)
        if not isinstance(info, Mapping):
            raise EnvironmentFaultError(f"{where} gave the info {_shown(info)}; expected a dictionary")
        return Step(
            action,
            _number(f"{where} gave the reward", reward),
            truth(f"{where} gave terminated as", terminated),
            truth(f"{where} gave truncated as", truncated),
            info,
        )

    def _take(self, where: str, given: Any) -> None:
        parts = {"": given}
        if self._spaces.observation_keys:
            if not isinstance(given, Mapping) or not set(self._spaces.observation_keys) <= given.keys():
                found = sorted(given) if isinstance(given, Mapping) else type(given).__name__
                raise EnvironmentFaultError(
                    f"{where} gave the observation {found}; expected the keys {list(self._spaces.observation_keys)}"
                )
            parts = {key: given[key] for key in self._spaces.observation_keys}
        # Copied, because some environments go on changing the arrays that they return.
        self.observation = {key: _array(where, parts[key], shape) for key, shape in self._shapes.items()}
        flat = self.observation if self._spaces.observation_keys else self.observation[""]
        self.columns = self._spaces.flatten_observation(flat)


def truth(what: str, value: Any) -> bool:
    """Returns `value`, a truth value or 0 or 1, alone or as the only one of an array.

    Args:
        what: Begins the error's sentence, such as "step 3 gave the success".
        value: Of an environment.

    Raises:
        EnvironmentFaultError: It is something else.
    """
    array = _array_of(value)
    if array is None or array.size != 1 or array.item() not in (0, 1):
        raise EnvironmentFaultError(f"{what} {_shown(value)}; expected True or False")
    return bool(array.item())


def _number(what: str, value: Any) -> float:
    array = _array_of(value)
    if array is None or array.size != 1:
        raise EnvironmentFaultError(f"{what} {_shown(value)}; expected one number")
    return float(array.item())


def _array(where: str, part: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Returns a copy of a part of an observation, which has as many numbers as `shape`."""
    array, size = _array_of(part), int(np.prod(shape, dtype=np.int64))
    if array is None or array.size != size:
        found = f"an observation of shape {array.shape}" if array is not None else f"the observation {_shown(part)}"
        raise EnvironmentFaultError(f"{where} gave {found}; expected {size} numbers of shape {shape}")
    return array.reshape(shape)


def _array_of(value: Any) -> NDArray[Any] | None:
    """Returns a copy of `value` as an array, None where it is not made of numbers."""
    try:
        array = np.array(value)
    except ValueError:  # lists of different lengths
        return None
    return array if array.dtype.kind in "fiub" else None


def _shown(value: Any) -> str:
    return textwrap.shorten(repr(value), width=100)


def _called(where: str, call: Callable[[], Any]) -> Any:
    return call_foreign(call, lambda told: EnvironmentFaultError(f"{where} raised {told}"))


def _parts(where: str, answer: Any, *names: str) -> tuple[Any, ...]:
    """Returns `answer`, which has a part for each of `names`."""
    if not isinstance(answer, tuple) or len(answer) != len(names):
        found = f"{len(answer)} values" if isinstance(answer, tuple) else type(answer).__name__
        raise EnvironmentFaultError(f"{where} gave {found}; expected ({', '.join(names)})")
    return answer
