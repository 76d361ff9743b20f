"""Collected episodes as a Minari data set, written through Minari's own functions."""

import contextlib
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import minari
import numpy as np
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_dataset import parse_dataset_id

from pipeline.collection.episodes import CollectedEpisode
from pipeline.collection.origin import Origin
from pipeline.errors import ConfigError


def check_dataset_id(dataset_id: str) -> None:
    """Checks an id before anything is written: Minari makes a malformed id's folder first and then cannot list any.

    Raises:
        ConfigError: Not `namespace/name-vN`.
    """
    try:
        namespace, name, version = parse_dataset_id(dataset_id)
    except (ValueError, TypeError) as error:
        raise ConfigError(_id_rule(dataset_id)) from error
    if not namespace or len(namespace) < 2 or not name or version is None or " " in dataset_id:
        raise ConfigError(_id_rule(dataset_id))


def dataset_folder(root: Path, dataset_id: str) -> Path:
    """Returns where Minari keeps a data set below `root`."""
    return root / dataset_id


def write_dataset(root: Path, dataset_id: str, episodes: Iterable[CollectedEpisode], origin: Origin) -> None:
    """Writes a data set that either is whole or is not there.

    Minari writes into a folder of its own beside the final one, which gets its name last. The bytes depend on the
    episodes and the libraries' versions alone.

    Args:
        root: Root of data sets, the MINARI_DATASETS_PATH to read it with.
        dataset_id: Checked by `check_dataset_id`.
        episodes: At least one, in order.
        origin: The environment that they were collected in.
    """
    building = root / ".building"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    facts: list[dict[str, str | float]] = []
    with minari_root(building), warnings.catch_warnings():
        # Minari asks for an author, an e-mail address and a permalink, which a generated data set has not.
        warnings.filterwarnings("ignore", category=UserWarning, module="minari")
        dataset = minari.create_dataset_from_buffers(
            dataset_id,
            _buffers(episodes, facts),
            env=origin.stand_in(),
            algorithm_name="behaviour mixture",
            description="Collected by jobs/collect.py; each episode's metadata has its policy, noise and total reward.",
            data_format="hdf5",
        )
        dataset.storage.update_episode_metadata(facts)
    _publish(building, root, dataset_id)


@contextlib.contextmanager
def minari_root(root: Path) -> Iterator[None]:
    """Makes `root` the place of Minari's data sets inside the `with` block; Minari knows no other way."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(root)
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before


def _buffers(episodes: Iterable[CollectedEpisode], facts: list[dict[str, str | float]]) -> Iterator[EpisodeBuffer]:
    """Yields Minari's form of each episode, and appends to `facts` what its metadata will say."""
    for number, episode in enumerate(episodes):
        ends = np.zeros((2, len(episode.rewards)), dtype=np.bool_)
        ends[:, -1] = episode.terminated, episode.truncated
        facts.append({"policy": episode.policy, "noise": episode.noise, "total_reward": float(episode.rewards.sum())})
        plain = set(episode.observations) == {""}
        yield EpisodeBuffer(
            id=number,
            seed=episode.seed,
            observations=episode.observations[""] if plain else episode.observations,
            actions=episode.actions,
            rewards=episode.rewards,
            terminations=ends[0],
            truncations=ends[1],
        )


def _publish(building: Path, root: Path, dataset_id: str) -> None:
    # The parts that it was made of are removed next: until its bytes are on the disk, a power failure could take both.
    for path in building.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    final = dataset_folder(root, dataset_id)
    final.parent.mkdir(parents=True, exist_ok=True)
    for namespace in (path for path in final.relative_to(root).parents if path.name):
        source = building / namespace / "namespace_metadata.json"
        if source.exists():
            source.replace(root / namespace / source.name)
    dataset_folder(building, dataset_id).replace(final)
    shutil.rmtree(building)


def _id_rule(dataset_id: str) -> str:
    return (
        f"collect.dataset_id is {dataset_id!r}; expected namespace/name-vN, such as collected/behaviour-v0, with a "
        "namespace of at least two characters and no spaces."
    )
