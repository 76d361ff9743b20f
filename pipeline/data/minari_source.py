"""Minari data sets as sources: HDF5 or Arrow storage, read by ranges of episode ids."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from minari.dataset._storages import get_minari_storage
from minari.dataset.minari_storage import MinariStorage
from minari.serialization import deserialize_space

from pipeline.configuration import absolute
from pipeline.data.ends import episode_ends, episode_starts
from pipeline.data.minari_files import Recording, one_a_step, read_marks, read_recordings
from pipeline.data.sources import Listing
from pipeline.data.spaces import Spaces
from pipeline.data.staging import local_copy
from pipeline.data.unreadable import reading
from pipeline.errors import DataError
from pipeline.records import Episode
from pipeline.stored import json_mapping, read_bytes

_DATA_SET = "a Minari data set"
_EPISODES = "all episodes that its metadata counts"

_SPACES = ("observation_space", "action_space")


@dataclass(frozen=True)
class MinariSource:
    """One Minari data set.

    A recorded episode with ends in its middle is several episodes here. Of n recorded ones the first parts have the ids
    0 to n - 1, as they have in Minari, and part p of episode i has `p * n + i`. What the action at an end in the middle
    led to is not known: the next row may be that of a new start. So the last observation is repeated there, as in files
    of D4RL; it is never a token. An episode without a mark at its end was cut off, so truncated.

    Attributes:
        name: Its id.
        location: Absolute path or URI of its folder, which holds `data/metadata.json`.
        spaces: How its observations and actions become columns.
        limit: Steps after which an episode ends that no mark has ended; None ends none.
    """

    name: str
    location: str
    spaces: Spaces
    limit: int | None = None

    @classmethod
    def open(
        cls,
        name: str,
        location: str,
        keys: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> "MinariSource":
        """Returns the source of a data set.

        Args:
            name: Its id.
            location: Path or URI of its folder.
            keys: Keys of a Dict observation, in order; None takes all.
            columns: Columns kept, see `Spaces.of`; None keeps all.
            limit: See `MinariSource`.

        Raises:
            DataError: It is damaged or empty, or has spaces that are not known or not supported.
            StorageError: The machine does not let it be read.
            ConfigError: Unknown keys or columns.
        """
        with reading(f"{name} at {location}", _DATA_SET):
            storage = _opened(location)
            episodes = storage.total_episodes
        if not isinstance(episodes, int) or episodes < 1:
            raise DataError(
                f"{name} at {location} has {episodes!r} episodes; expected at least 1. Collect or download it again."
            )
        try:
            spaces = Spaces.of(storage.observation_space, storage.action_space, keys, columns)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
        source = cls(name, absolute(location), spaces, limit)
        # Not after all episodes were read.
        _ = source.environment, source.reference_scores
        return source

    @property
    def environment(self) -> dict[str, Any] | None:
        """Gymnasium id, max_episode_steps and kwargs of its environment specification, None if it has none."""
        with reading(f"env_spec of {self.name} at {self.location}", "Gymnasium's specification of an environment"):
            text = self._metadata().get("env_spec")
            if not text:
                return None
            named = json_mapping(str(text).encode())
        return {name: named.get(name) for name in ("id", "max_episode_steps", "kwargs", "additional_wrappers")}

    @property
    def reference_scores(self) -> tuple[float, float] | None:
        """Mean returns of a random and an expert policy, None if the data set does not name them."""
        metadata = self._metadata()
        with reading(f"reference scores of {self.name} at {self.location}", "two finite numbers, or none"):
            low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
            if low is None or high is None:
                return None
            if not (math.isfinite(float(low)) and math.isfinite(float(high))):
                raise ValueError(f"they are {low} and {high}")
            return float(low), float(high)

    def listing(self) -> Listing:
        """Returns its episodes in the order in which they were recorded.

        Raises:
            DataError: Marks are missing or damaged.
            StorageError: The machine does not let them be read.
        """
        storage = self._storage()
        count = storage.total_episodes
        found = read_marks(storage, range(count))
        ids: list[int] = []
        lengths: list[int] = []
        divided = 0
        for number in range(count):
            with reading(self._recorded(number), _EPISODES):
                marks = next(found)
            ends = episode_ends(marks, self.limit)
            ids += [part * count + number for part in range(len(ends))]
            lengths += (ends - episode_starts(ends)).tolist()
            divided += len(ends) > 1
        return Listing(np.array(ids, np.int64), np.array(lengths, np.int64), divided)

    def fingerprint(self) -> str:
        """Returns a sha256 of its metadata, of its files' names and sizes, and of the ends of the first and last."""
        folder = local_copy(self.location) / "data"
        with reading(f"{self.name} at {self.location}", _DATA_SET):
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
            DataError: An episode is missing, damaged, or has other columns than the spaces say.
            StorageError: The machine does not let it be read.
        """
        storage = self._storage()
        count = storage.total_episodes
        wanted = [(number, list(parts)) for number, parts in groupby(ids, key=lambda episode_id: episode_id % count)]
        recordings = read_recordings(storage, [number for number, _ in wanted])
        for number, parts in wanted:
            with reading(self._recorded(number), _EPISODES):
                recording = next(recordings)
            if recording.misfit:
                yield from (Episode.unusable(self.name, episode_id, recording.misfit) for episode_id in parts)
            else:
                yield from self._episodes(
                    number, recording, [(episode_id, episode_id // count) for episode_id in parts]
                )

    def _episodes(self, number: int, recording: Recording, parts: Sequence[tuple[int, int]]) -> Iterator[Episode]:
        """Yields parts of a recorded episode, given by their ids and places in it."""
        steps = len(recording.rewards)
        try:
            observations = self.spaces.flatten_observations(recording.observations, steps + 1)
            actions = self.spaces.flatten_actions(recording.actions, steps)
            rewards = one_a_step("rewards", recording.rewards)
            terminations = one_a_step("terminations", recording.terminations).astype(np.bool_)
            truncations = one_a_step("truncations", recording.truncations).astype(np.bool_)
        except DataError as error:
            raise DataError(f"Episode {number} of {self.name}: {error}") from error
        ends = episode_ends(terminations | truncations, self.limit)
        starts = episode_starts(ends)
        for episode_id, part in parts:
            start, end = int(starts[part]), int(ends[part])
            # The row behind an end in the middle belongs to the next part alone.
            rows = np.arange(start, end + 1) if end == steps else np.append(np.arange(start, end), end - 1)
            terminated = bool(terminations[start:end][-1:].any())
            yield Episode(
                source=self.name,
                episode_id=episode_id,
                observations=observations[rows],
                actions=actions[start:end],
                rewards=rewards[start:end],
                terminated=terminated,
                truncated=not terminated or bool(truncations[end - 1]),
            )

    def _storage(self) -> MinariStorage:
        with reading(f"{self.name} at {self.location}", _DATA_SET):
            return _opened(self.location)

    def _metadata(self) -> dict[str, Any]:
        with reading(f"{self.name} at {self.location}", _DATA_SET):
            return _metadata(local_copy(self.location) / "data")

    def _recorded(self, number: int) -> str:
        return f"episode {number} of {self.name} at {self.location}"


def _opened(location: str) -> MinariStorage:
    """Opens a data set, whose metadata is text: nothing that it names is made or imported.

    Raises:
        DataError: It does not name its spaces.
    """
    folder = local_copy(location) / "data"
    metadata = _metadata(folder)
    if not all(isinstance(metadata.get(name), str) for name in _SPACES):
        raise DataError(
            f"{location} does not name both spaces in its metadata; expected {' and '.join(_SPACES)}. They could be "
            "had from the environment that it names, but making that runs whatever code a data set names: take a newer "
            "version of the data set, or add the spaces as minari.serialization.serialize_space gives them."
        )
    # Not MinariStorage.read: that makes the environment where it finds a space of None.
    spaces = [deserialize_space(metadata[name]) for name in _SPACES]
    storage: MinariStorage = get_minari_storage(metadata["data_format"])(
        folder, *spaces, jpeg_encoding=bool(metadata.get("jpeg_encoding", True))
    )
    return storage


def _metadata(folder: Path) -> dict[str, Any]:
    return json_mapping(read_bytes(folder / "metadata.json"))


def _ends(path: Path, size: int = 65_536) -> bytes:
    """Returns the first and the last `size` bytes of a file."""
    with path.open("rb") as file:
        first = file.read(size)
        file.seek(max(0, path.stat().st_size - size))
        return first + file.read(size)
