"""Episodes and data sets that the tests of data, collection and prepare read."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import gymnasium
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer

from pipeline.records import Episode

BOX = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float64)
ACTIONS = gymnasium.spaces.Box(-1, 1, (2,), np.float32)


def random_episodes(lengths: Sequence[int], seed: int = 0, source: str = "memory") -> list[Episode]:
    """Returns episodes of random numbers, three observation and two action columns, every second one terminated."""
    rng = np.random.default_rng(seed)
    return [
        Episode(
            source=source,
            episode_id=number,
            observations=rng.normal(size=(length + 1, 3)),
            actions=rng.uniform(-1, 1, (length, 2)).astype(np.float32).astype(np.float64),
            rewards=rng.normal(size=length),
            terminated=number % 2 == 0,
            truncated=number % 2 == 1,
        )
        for number, length in enumerate(lengths)
    ]


def counting_episodes(lengths: Sequence[int]) -> list[Episode]:
    """Returns episodes whose observation is (episode, step, 100 episode + step), so that any mix-up shows."""
    episodes = []
    for number, length in enumerate(lengths):
        steps = np.arange(length + 1.0)
        observations = np.column_stack([np.full(length + 1, number), steps, 100 * number + steps])
        actions = np.column_stack([steps[:-1] / 1000, np.full(length, number / 1000)])
        episodes.append(Episode("memory", number, observations, actions, np.ones(length), True, False))
    return episodes


def write_minari(
    root: Path,
    dataset_id: str,
    episodes: Sequence[Episode],
    observation_space: gymnasium.Space[Any] = BOX,
    action_space: gymnasium.Space[Any] = ACTIONS,
    data_format: str = "hdf5",
    **options: Any,
) -> Path:
    """Writes episodes as a Minari data set below `root` and returns its folder."""
    buffers = [
        EpisodeBuffer(
            id=number,
            observations=_as_in(observation_space, episode.observations),
            actions=_as_in(action_space, episode.actions),
            rewards=list(episode.rewards),
            terminations=[False] * (episode.num_steps - 1) + [episode.terminated],
            truncations=[False] * (episode.num_steps - 1) + [episode.truncated],
            infos={},
        )
        for number, episode in enumerate(episodes)
    ]
    return write_buffers(root, dataset_id, buffers, data_format, observation_space, action_space, **options)


def write_buffers(
    root: Path,
    dataset_id: str,
    buffers: Sequence[EpisodeBuffer],
    data_format: str = "hdf5",
    observation_space: gymnasium.Space[Any] = BOX,
    action_space: gymnasium.Space[Any] = ACTIONS,
    **options: Any,
) -> Path:
    """Writes Minari's own form of episodes as a data set below `root` and returns its folder."""
    with mock.patch.dict(os.environ, MINARI_DATASETS_PATH=str(root)), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            dataset_id,
            list(buffers),
            observation_space=observation_space,
            action_space=action_space,
            data_format=data_format,
            **options,
        )
    return root / dataset_id


def _as_in(space: gymnasium.Space[Any], rows: np.ndarray) -> Any:
    """Returns rows of columns in the form of the space: a mapping of keys, choices, or an array of its type."""
    if isinstance(space, gymnasium.spaces.Dict):
        parts, start = {}, 0
        for key, part in space.spaces.items():
            size = int(np.prod(part.shape or (1,)))
            parts[key] = _as_in(part, rows[:, start : start + size])
            start += size
        return parts
    if isinstance(space, gymnasium.spaces.Discrete):
        return (rows[:, 0] + space.start).astype(np.int64)
    return rows.reshape(len(rows), *space.shape).astype(space.dtype)
