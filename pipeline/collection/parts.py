"""Part files: a chunk of collected episodes, so that an interrupted collection keeps what it has."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.collection.episodes import CollectedEpisode
from pipeline.configuration import write_atomically
from pipeline.errors import DataError
from pipeline.stored import npz_arrays

MAX_EPISODES = 25
MAX_STEPS = 5_000
"""Of one part file: half a second of a core's work at MuJoCo's 10 000 steps a second, so that several actors share even
a small collection and the progress moves."""

_MOST_BYTES = 2**32
"""Of one part: 5000 observations of 100 000 numbers."""
_PREFIX = "observations/"


def chunk_size(max_steps: int) -> int:
    """Returns how many episodes of at most `max_steps` steps make a chunk. No episode depends on it."""
    return max(1, min(MAX_EPISODES, MAX_STEPS // max_steps))


def chunk_episodes(chunk: int, size: int) -> range:
    """Returns the numbers of the episodes of chunk `chunk`, where chunks have `size` episodes."""
    return range(chunk * size, (chunk + 1) * size)


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
    write_atomically(path, buffer.getvalue())


def part_lengths(path: Path, size: int) -> list[int]:
    """Returns the steps of each episode of a part file, after a look at all of its bytes.

    Raises:
        DataError: It cannot be read, or does not hold `size` episodes, as an earlier version's chunks.
    """
    try:
        lengths = [len(episode.rewards) for episode in read_part(path)]
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}: {error}); expected {size} episodes."
        ) from error
    if len(lengths) != size:
        raise DataError(f"{path} holds {len(lengths)} episodes; expected {size}.")
    return lengths


def read_part(path: Path) -> Iterator[CollectedEpisode]:
    """Yields the episodes of a part file, in order."""
    arrays = npz_arrays(path.read_bytes(), _MOST_BYTES)
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
