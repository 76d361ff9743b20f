"""Part files: a chunk of collected episodes, so that an interrupted collection keeps what it has."""

import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.collection.episodes import CollectedEpisode

CHUNK_EPISODES = 25
"""Episodes of one part file: 25 000 steps at most where episodes end after 1000, some seconds of a core's work."""

_PREFIX = "observations/"


def chunk_episodes(chunk: int) -> range:
    """Returns the numbers of the episodes of chunk `chunk`."""
    return range(chunk * CHUNK_EPISODES, (chunk + 1) * CHUNK_EPISODES)


def part_path(folder: Path, chunk: int) -> Path:
    """Returns the path of a chunk's part file."""
    return folder / f"part-{chunk:06d}.npz"


def write_part(path: Path, episodes: Sequence[CollectedEpisode]) -> None:
    """Writes a chunk's episodes, whole or not at all."""
    arrays = {
        _PREFIX + key: np.concatenate([episode.observations[key] for episode in episodes])
        for key in episodes[0].observations
    }
    arrays["actions"] = np.concatenate([episode.actions for episode in episodes])
    arrays["rewards"] = np.concatenate([episode.rewards for episode in episodes])
    for name in ("terminated", "truncated", "policy", "noise", "seed"):
        arrays[name] = np.array([getattr(episode, name) for episode in episodes])
    arrays["length"] = np.array([len(episode.rewards) for episode in episodes], dtype=np.int64)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process is in the name: after a lost actor, the old process may still be writing while the new one begins.
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(buffer.getvalue())
    partial.replace(path)


def part_lengths(path: Path) -> list[int]:
    """Returns the steps of each episode of a part file."""
    with np.load(path, allow_pickle=False) as arrays:
        return [int(length) for length in arrays["length"]]


def read_part(path: Path) -> Iterator[CollectedEpisode]:
    """Yields the episodes of a part file, in order."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    ends = np.cumsum(arrays["length"])
    for place, (end, length) in enumerate(zip(ends.tolist(), arrays["length"].tolist(), strict=True)):
        steps = slice(end - length, end)
        # Each episode has one observation more than steps.
        rows = slice(steps.start + place, steps.stop + place + 1)
        yield CollectedEpisode(
            observations={
                name.removeprefix(_PREFIX): array[rows] for name, array in arrays.items() if name.startswith(_PREFIX)
            },
            actions=arrays["actions"][steps],
            rewards=arrays["rewards"][steps],
            terminated=bool(arrays["terminated"][place]),
            truncated=bool(arrays["truncated"][place]),
            policy=str(arrays["policy"][place]),
            noise=float(arrays["noise"][place]),
            seed=int(arrays["seed"][place]),
        )
