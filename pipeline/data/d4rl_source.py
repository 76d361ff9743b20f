"""D4RL's flat HDF5 files as sources, read without the d4rl package.

`observations`, `actions` and `rewards` of all episodes stand one behind the other; `terminals` and `timeouts` mark
where they end.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.configuration import absolute
from pipeline.data.spaces import Spaces, select_columns
from pipeline.data.staging import local_copy
from pipeline.errors import ConfigError, DataError, PipelineError
from pipeline.records import Episode

_COLUMNS = ("observations", "actions", "rewards", "terminals")

# What h5py raises where a file is cut off or damaged, lacks a column, or has one of an odd type.
_READ_ERRORS = (OSError, KeyError, ValueError, TypeError)


@dataclass(frozen=True)
class D4rlSource:
    """One D4RL file. The steps behind the last mark are an episode that the collector cut off, so truncated.

    Files without `next_observations` do not say what an episode's last action led to; that row then repeats the last
    observation. It is never a token.

    Attributes:
        name: Its file name, as given.
        location: Absolute path or URI of the file.
        spaces: Flat observations and continuous actions; the file names no bounds.
    """

    name: str
    location: str
    spaces: Spaces

    @classmethod
    def open(
        cls, location: str, keys: Sequence[str] | None = None, columns: Sequence[str] | None = None
    ) -> "D4rlSource":
        """Returns the source of a file.

        Args:
            location: Path or URI.
            keys: Must be None: D4RL's observations are flat.
            columns: Columns kept, see `Spaces.of`; None keeps all.

        Raises:
            DataError: It cannot be read, is empty, lacks a column, or the columns differ in length.
            ConfigError: Keys, or unknown columns.
        """
        if keys is not None:
            raise ConfigError(f"data.observation_keys is {list(keys)}; expected null: D4RL's observations are flat.")
        with _opened(location) as file:
            missing = [name for name in _COLUMNS if name not in file]
            if missing:
                raise DataError(f"{location} lacks {missing}; expected a D4RL file with {list(_COLUMNS)}.")
            shapes = {name: file[name].shape for name in _COLUMNS}
        steps = shapes["rewards"][0]
        if steps < 1 or any(shape[0] != steps for shape in shapes.values()):
            raise DataError(
                f"{location} has the shapes {shapes}; expected the same number of steps everywhere, at least 1."
            )
        observations, actions = (int(np.prod(shapes[name][1:], dtype=np.int64)) for name in _COLUMNS[:2])
        spaces = Spaces.plain(observations, actions)
        chosen = select_columns(columns, observations)
        return cls(location, absolute(location), spaces.model_copy(update={"observation_columns": chosen}))

    @property
    def environment(self) -> dict[str, Any] | None:
        """None: the file does not say which version of which package it was collected in."""
        return None

    @property
    def reference_scores(self) -> tuple[float, float] | None:
        """None: D4RL keeps them in its package."""
        return None

    def lengths(self) -> NDArray[np.int64]:
        """Returns (n,) the steps of its episodes."""
        starts, ends = self._borders()
        return ends - starts

    def ids(self) -> NDArray[np.int64]:
        """Returns 0 to n - 1."""
        return np.arange(len(self._borders()[0]), dtype=np.int64)

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
        with _opened(self.location) as file:
            ended = np.asarray(file["terminals"][:], dtype=np.bool_).reshape(-1)
            if "timeouts" in file:
                ended = ended | np.asarray(file["timeouts"][:], dtype=np.bool_).reshape(-1)
        ended[-1] = True
        ends = np.flatnonzero(ended).astype(np.int64) + 1
        return np.concatenate([[0], ends[:-1]]).astype(np.int64), ends


@contextlib.contextmanager
def _opened(location: str) -> Iterator[Any]:
    """Opens a file for the length of a `with` block; what cannot be read in it is an error of the data."""
    try:
        with h5py.File(local_copy(location)) as file:
            yield file
    except PipelineError:  # said already; it is a ValueError too
        raise
    except _READ_ERRORS as error:
        raise DataError(
            f"{location} cannot be read ({type(error).__name__}: {error}); expected an HDF5 file of D4RL. The download "
            "may be incomplete: fetch it again."
        ) from error
