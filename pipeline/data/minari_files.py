"""What lies in the files of a Minari data set: the marks of its recorded episodes, and these without their infos.

Minari's own `get_episodes` decodes all infos as well, which nobody wants here: its Arrow reader fails on those that are
one-dimensional arrays. That reader also cuts the last step off an episode with as many observations as steps, and takes
a long episode's second batch for the next episode.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import pyarrow.dataset
from minari.dataset._storages import arrow_storage
from minari.dataset.minari_storage import MinariStorage
from numpy.typing import NDArray

from pipeline.data.hdf5 import entry_inside, require_inside
from pipeline.errors import DataError

_FLAGS = ("terminations", "truncations")
_FIELDS = ("observations", "actions", "rewards", *_FLAGS)


@dataclass(frozen=True)
class Recording:
    """One episode as it was recorded, decoded by its spaces, unchecked.

    Attributes:
        observations, actions: Arrays, or nested mappings or tuples of them.
        rewards, terminations, truncations: Arrays of numbers.
    """

    observations: Any
    actions: Any
    rewards: NDArray[Any]
    terminations: NDArray[Any]
    truncations: NDArray[Any]

    @property
    def misfit(self) -> str:
        """Says which counts do not fit that of the rewards, "" if all do: one observation more, as many of the rest."""
        steps = len(self.rewards)
        wrong = [
            f"{rows} {name}"
            for name in _FIELDS
            for rows in sorted(_rows(getattr(self, name)) - {steps + (name == "observations")})
        ]
        return f"has {steps} rewards, but {' and '.join(wrong)}" if wrong else ""


def read_marks(storage: MinariStorage, numbers: Sequence[int]) -> Iterator[NDArray[np.bool_]]:
    """Yields for each of the recorded episodes (T,) whether its MDP or a limit ended with a step."""
    if storage.FORMAT == "hdf5":
        for group in _groups(storage, numbers):
            yield _marks(*(group[name][:] for name in _FLAGS))
    else:
        for columns, steps in _tables(storage, numbers, _FLAGS):
            yield _marks(*(np.asarray(columns[name])[:steps] for name in _FLAGS))


def read_recordings(storage: MinariStorage, numbers: Sequence[int]) -> Iterator[Recording]:
    """Yields the recorded episodes."""
    return _hdf5_recordings(storage, numbers) if storage.FORMAT == "hdf5" else _arrow_recordings(storage, numbers)


def one_a_step(name: str, array: NDArray[Any]) -> NDArray[np.float64]:
    """Returns (T,) the numbers of a column.

    Raises:
        DataError: Several numbers a step, or none.
    """
    if array.dtype.kind not in "fiub" or array.size != len(array):
        raise DataError(
            f"{name} has the shape {array.shape} and the type {array.dtype}; expected one number for each of "
            f"{len(array)} steps. Write the data set again with one of them, or with their sum."
        )
    return array.reshape(-1).astype(np.float64)


def _hdf5_recordings(storage: MinariStorage, numbers: Sequence[int]) -> Iterator[Recording]:
    for group in _groups(storage, numbers):
        yield Recording(
            storage._decode_space(group["observations"], storage.observation_space),
            storage._decode_space(group["actions"], storage.action_space),
            *(group[name][:] for name in ("rewards", *_FLAGS)),
        )


def _arrow_recordings(storage: MinariStorage, numbers: Sequence[int]) -> Iterator[Recording]:
    for columns, steps in _tables(storage, numbers, _FIELDS):
        # Minari fills up what has fewer rows than the observations.
        yield Recording(
            _decoded(storage, storage.observation_space, columns["observations"]),
            _decoded(storage, storage.action_space, columns["actions"][:steps]),
            *(np.asarray(columns[name])[:steps] for name in ("rewards", *_FLAGS)),
        )


def _groups(storage: MinariStorage, numbers: Sequence[int]) -> Iterator["h5py.Group"]:
    with h5py.File(storage.data_path / "main_data.hdf5") as file:
        for number in numbers:
            group = entry_inside(file, f"episode_{number}")
            for name in _FIELDS:
                require_inside(group, name)
            yield group


def _tables(
    storage: MinariStorage, numbers: Sequence[int], names: Sequence[str]
) -> Iterator[tuple[Mapping[str, Any], int]]:
    """Yields for each episode the named columns, one array each, and its steps."""
    for number in numbers:
        (facts,) = storage.get_episode_metadata([number])
        files = pyarrow.dataset.dataset(
            storage.data_path / str(number), format=storage.FORMAT, ignore_prefixes=["_", ".", "metadata.json"]
        )
        table = files.to_table(columns=list(names))
        yield {name: table.column(name).combine_chunks() for name in names}, int(facts["total_steps"])


def _decoded(storage: MinariStorage, space: Any, array: Any) -> Any:
    return arrow_storage._decode_space(space, array, jpeg_encoding=storage.jpeg_encoding)


def _marks(terminations: NDArray[Any], truncations: NDArray[Any]) -> NDArray[np.bool_]:
    if len(terminations) != len(truncations):  # a misfit, which reading the episode tells
        return np.zeros(len(terminations), np.bool_)
    return np.logical_or(_any(terminations), _any(truncations))


def _any(flags: NDArray[Any]) -> NDArray[np.bool_]:
    return np.asarray(flags.astype(np.bool_).any(axis=tuple(range(1, flags.ndim))))


def _rows(value: Any) -> set[int]:
    """Returns the numbers of rows that the arrays of a nested value have."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple):
        return set().union(*(_rows(part) for part in value))
    # A single number has no rows.
    return {len(value)} if np.ndim(value) else {-1}
