"""Minari data sets as sources: HDF5 or Arrow storage, read by ranges of episode ids through Minari's own classes."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from minari.dataset.minari_storage import MinariStorage
from numpy.typing import NDArray

from pipeline.configuration import absolute
from pipeline.data.spaces import Spaces
from pipeline.data.staging import local_copy
from pipeline.errors import DataError
from pipeline.records import Episode

# What h5py, Arrow and Minari raise where a file is cut off, an episode is missing, or an array has an odd type.
_READ_ERRORS = (OSError, KeyError, ValueError, TypeError, AssertionError)


@dataclass(frozen=True)
class MinariSource:
    """One Minari data set.

    Attributes:
        name: Its id.
        location: Absolute path or URI of its folder, which holds `data/metadata.json`.
        spaces: How its observations and actions become columns.
    """

    name: str
    location: str
    spaces: Spaces

    @classmethod
    def open(
        cls, name: str, location: str, keys: Sequence[str] | None = None, columns: Sequence[str] | None = None
    ) -> "MinariSource":
        """Returns the source of a data set.

        Args:
            name: Its id.
            location: Path or URI of its folder.
            keys: Keys of a Dict observation, in order; None takes all.
            columns: Columns kept, see `Spaces.of`; None keeps all.

        Raises:
            DataError: It cannot be read, is empty, or has spaces that are not supported.
            ConfigError: Unknown keys or columns.
        """
        try:
            storage = _storage(location)
            episodes = storage.total_episodes
        except _READ_ERRORS as error:
            raise DataError(
                f"{name} at {location} cannot be read ({error}); expected a Minari data set. The download may be "
                "incomplete: fetch it again."
            ) from error
        if episodes < 1:
            raise DataError(f"{name} at {location} has 0 episodes; expected at least 1. Collect or download it again.")
        try:
            spaces = Spaces.of(storage.observation_space, storage.action_space, keys, columns)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
        return cls(name, absolute(location), spaces)

    @property
    def environment(self) -> dict[str, Any] | None:
        """Gymnasium id, max_episode_steps and kwargs of its environment specification, None if it has none."""
        text = self._metadata().get("env_spec")
        if not text:
            return None
        specification = json.loads(text)
        return {name: specification.get(name) for name in ("id", "max_episode_steps", "kwargs")}

    @property
    def reference_scores(self) -> tuple[float, float] | None:
        """Mean returns of a random and an expert policy, None if the data set does not name them."""
        metadata = self._metadata()
        low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
        return None if low is None or high is None else (float(low), float(high))

    def lengths(self) -> NDArray[np.int64]:
        """Returns (n,) the steps of its episodes."""
        metadata = _storage(self.location).get_episode_metadata(self.ids().tolist())
        try:
            return np.array([int(entry["total_steps"]) for entry in metadata], dtype=np.int64)
        except _READ_ERRORS as error:
            raise self._broken("an episode's metadata", error) from error

    def ids(self) -> NDArray[np.int64]:
        """Returns 0 to n - 1."""
        return np.arange(_storage(self.location).total_episodes, dtype=np.int64)

    def fingerprint(self) -> str:
        """Returns a sha256 of its metadata, of its files' names and sizes, and of the ends of the first and last."""
        folder = local_copy(self.location) / "data"
        paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "metadata.json")
        hasher = hashlib.sha256((folder / "metadata.json").read_bytes())
        for path in paths:
            hasher.update(f"{path.relative_to(folder)}:{path.stat().st_size}".encode())
        for path in (*paths[:1], *paths[-1:]):
            hasher.update(_ends(path))
        return hasher.hexdigest()

    def read(self, ids: Sequence[int]) -> Iterator[Episode]:
        """Yields the episodes `ids`.

        Raises:
            DataError: An episode is missing, cannot be read, or has other columns than the spaces say.
        """
        # A list: Minari's Arrow storage goes through the ids twice.
        episodes = iter(_storage(self.location).get_episodes(list(ids)))
        for episode_id in ids:
            try:
                fields = next(episodes)
            except (*_READ_ERRORS, StopIteration) as error:
                raise self._broken(f"episode {episode_id}", error) from error
            yield self._episode(episode_id, fields)

    def _episode(self, episode_id: int, fields: dict[str, Any]) -> Episode:
        observations, rewards = fields["observations"], np.asarray(fields["rewards"], dtype=np.float64).reshape(-1)
        terminations, truncations = np.asarray(fields["terminations"]), np.asarray(fields["truncations"])
        try:
            return Episode(
                source=self.name,
                episode_id=episode_id,
                observations=self.spaces.flatten_observations(observations, _rows(observations)),
                actions=self.spaces.flatten_actions(fields["actions"], len(fields["actions"])),
                rewards=rewards,
                terminated=bool(len(terminations) and terminations[-1]),
                truncated=bool(len(truncations) and truncations[-1]),
            )
        except DataError as error:
            raise DataError(f"Episode {episode_id} of {self.name}: {error}") from error

    def _metadata(self) -> dict[str, Any]:
        return dict(MinariStorage.read_raw_metadata(local_copy(self.location) / "data"))

    def _broken(self, what: str, error: Exception) -> DataError:
        return DataError(
            f"{what} of {self.name} cannot be read ({type(error).__name__}: {error}); expected all episodes that its "
            f"metadata counts. The download may be incomplete: remove {self.location} and fetch it again."
        )


def _storage(location: str) -> MinariStorage:
    return MinariStorage.read(local_copy(location) / "data")


def _ends(path: Path, size: int = 65_536) -> bytes:
    """Returns the first and the last `size` bytes of a file."""
    with path.open("rb") as file:
        first = file.read(size)
        file.seek(max(0, path.stat().st_size - size))
        return first + file.read(size)


def _rows(observations: Any) -> int:
    if isinstance(observations, dict):
        return len(next(iter(observations.values())))
    return len(observations)
