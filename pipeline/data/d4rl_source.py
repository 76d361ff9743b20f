"""D4RL's flat HDF5 files as sources, read without the d4rl package.

`observations`, `actions` and `rewards` of all episodes stand one behind the other; `terminals` and `timeouts` mark
where they end. Old files, and some that were made locally, lack `timeouts`: a walk that no goal ended then runs on into
the next one, so the limit must be told.
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.configuration import absolute
from pipeline.data.ends import episode_ends, episode_starts
from pipeline.data.hdf5 import require_inside
from pipeline.data.sources import Listing
from pipeline.data.spaces import Spaces, select_columns
from pipeline.data.staging import local_copy
from pipeline.data.unreadable import reading
from pipeline.errors import ConfigError, DataError
from pipeline.records import Episode

_COLUMNS = ("observations", "actions", "rewards", "terminals")
_MARKS = ("terminals", "timeouts")
_ONE_A_STEP = ("rewards", *_MARKS)


@dataclass(frozen=True)
class D4rlSource:
    """One D4RL file. The steps behind the last mark are an episode that the collector cut off, so truncated.

    Files without `next_observations` do not say what an episode's last action led to; that row then repeats the last
    observation. It is never a token.

    Attributes:
        name: Its file name, as given.
        location: Absolute path or URI of the file.
        spaces: Flat observations and continuous actions; the file names no bounds.
        limit: Steps after which an episode ends that no mark has ended; None ends none.
    """

    name: str
    location: str
    spaces: Spaces
    limit: int | None = None

    @classmethod
    def open(
        cls,
        location: str,
        keys: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> "D4rlSource":
        """Returns the source of a file.

        Args:
            location: Path or URI.
            keys: Must be None: D4RL's observations are flat.
            columns: Columns kept, see `Spaces.of`; None keeps all.
            limit: See `D4rlSource`.

        Raises:
            DataError: It is damaged or empty, lacks a column, its columns do not fit each other, or neither it nor a
                limit says where episodes end.
            StorageError: The machine does not let it be read.
            ConfigError: Keys, or unknown columns.
        """
        if keys is not None:
            raise ConfigError(f"data.observation_keys is {list(keys)}; expected null: D4RL's observations are flat.")
        with _opened(location) as file:
            missing = [name for name in _COLUMNS if name not in file]
            if missing:
                raise DataError(f"{location} lacks {missing}; expected a D4RL file with {list(_COLUMNS)}.")
            names = [*_COLUMNS, *(name for name in ("timeouts", "next_observations") if name in file)]
            for name in names:
                require_inside(file, name)
            shapes = {name: file[name].shape for name in names}
        _check_shapes(location, shapes)
        observations, actions = (int(np.prod(shapes[name][1:], dtype=np.int64)) for name in _COLUMNS[:2])
        spaces = Spaces.plain(observations, actions)
        chosen = select_columns(columns, observations)
        source = cls(location, absolute(location), spaces.model_copy(update={"observation_columns": chosen}), limit)
        if limit is None:
            source._require_marks()
        return source

    @property
    def environment(self) -> dict[str, Any] | None:
        """None: the file does not say which version of which package it was collected in."""
        return None

    @property
    def reference_scores(self) -> tuple[float, float] | None:
        """None: D4RL keeps them in its package."""
        return None

    def listing(self) -> Listing:
        """Returns its episodes, numbered as they stand in the file."""
        starts, ends = self._borders()
        return Listing.numbered(ends - starts)

    def fingerprint(self) -> str:
        """Returns a sha256 of the file's size and of where its episodes end."""
        hasher = hashlib.sha256(json.dumps([local_copy(self.location).stat().st_size]).encode())
        hasher.update(self._borders()[1].tobytes())
        return hasher.hexdigest()

    def read(self, ids: Sequence[int]) -> Iterator[Episode]:
        """Yields the episodes `ids`.

        Raises:
            DataError: The file cannot be read; also of every other method that opens it.
        """
        starts, ends = self._borders()
        with _opened(self.location) as file:
            for episode_id in ids:
                steps = slice(int(starts[episode_id]), int(ends[episode_id]))
                yield self._episode(file, episode_id, steps)

    def _episode(self, file: Any, episode_id: int, steps: slice) -> Episode:
        length = steps.stop - steps.start
        observations = self.spaces.flatten_observations(file["observations"][steps], length)
        last = observations[-1:]
        if "next_observations" in file:
            last = self.spaces.flatten_observations(file["next_observations"][steps.stop - 1 : steps.stop], 1)
        terminated = bool(file["terminals"][steps.stop - 1])
        return Episode(
            source=self.name,
            episode_id=episode_id,
            observations=np.concatenate([observations, last]),
            actions=self.spaces.flatten_actions(file["actions"][steps], length),
            rewards=np.asarray(file["rewards"][steps], dtype=np.float64).reshape(-1),
            terminated=terminated,
            truncated=not terminated,
        )

    def _borders(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns first step and end of each episode."""
        marks, _ = self._marks()
        ends = episode_ends(marks, self.limit)
        return episode_starts(ends), ends

    def _marks(self) -> tuple[NDArray[np.bool_], bool]:
        """Returns (T,) whether an episode is said to end with a step, and whether limits are among what is said."""
        with _opened(self.location) as file:
            marks = [np.asarray(file[name][:], dtype=np.bool_).reshape(-1) for name in _MARKS if name in file]
        return np.logical_or.reduce(marks), len(marks) == len(_MARKS)

    def _require_marks(self) -> None:
        """Checks that the file says where its episodes end, since nothing else does."""
        marks, limits = self._marks()
        if not limits or not marks.any():
            found = "marks no end" if limits else "has no timeouts"
            lengths = self.listing().lengths
            raise DataError(
                f"{self.name} {found}, so its longest episode would have {lengths.max():,} of all {lengths.sum():,} "
                "steps; expected to know where episodes end. Set data.max_episode_steps to the time limit of the "
                "environment that it was collected in."
            )


def _check_shapes(location: str, shapes: dict[str, tuple[int, ...]]) -> None:
    steps = shapes["rewards"][:1]
    if steps in ((), (0,)) or any(shape[:1] != steps for shape in shapes.values()):
        raise DataError(
            f"{location} has the shapes {shapes}; expected the same number of steps everywhere, at least 1."
        )
    for name in _ONE_A_STEP:
        if name in shapes and math.prod(shapes[name]) != steps[0]:
            raise DataError(
                f"{location} has {name} of the shape {shapes[name]}; expected one number for each of {steps[0]} steps. "
                "Write the file again with one of them, or with their sum."
            )


@contextlib.contextmanager
def _opened(location: str) -> Iterator[Any]:
    """Opens a file for the length of a `with` block; what cannot be read in it is an error of the user's."""
    with reading(location, "an HDF5 file of D4RL"), h5py.File(local_copy(location)) as file:
        yield file
