import os
from pathlib import Path

import h5py
import minari
import numpy as np
import pytest

from pipeline.collection.config import BehaviourConfig
from pipeline.collection.dataset import check_dataset_id, minari_root, write_dataset
from pipeline.collection.episodes import CollectedEpisode, Collector
from pipeline.collection.parts import chunk_episodes, chunk_size, part_lengths, part_path, read_part, write_part
from pipeline.data.minari_source import MinariSource
from pipeline.environments import EnvironmentConfig, make_environment
from pipeline.errors import ConfigError, DataError, EnvironmentSetupError

PENDULUM = EnvironmentConfig(id="InvertedPendulum-v5", max_episode_steps=20)
CORRIDOR = EnvironmentConfig(id="tests.collection.mazes:Corridor-v0")
MIXTURE = (
    BehaviourConfig(policy="random", weight=3),
    BehaviourConfig(policy="inverted_pendulum", noise=0.5, max_noise=1.0, weight=1),
)


def same(first: CollectedEpisode, second: CollectedEpisode) -> bool:
    return all(
        np.array_equal(vars(first)[name], vars(second)[name])
        if name != "observations"
        else all(np.array_equal(first.observations[key], second.observations[key]) for key in first.observations)
        for name in vars(first)
    )


def test_an_episode_follows_from_the_seed_and_its_number_alone() -> None:
    collector = Collector(PENDULUM, MIXTURE, 7)
    first = [collector.collect(number) for number in (0, 1, 2)]
    fresh = Collector(PENDULUM, MIXTURE, 7)
    again = [fresh.collect(number) for number in (2, 0, 1)]
    assert all(same(one, other) for one, other in zip(first, [again[1], again[2], again[0]], strict=True))
    assert not same(first[0], Collector(PENDULUM, MIXTURE, 8).collect(0))


def test_an_episode_is_whole_and_can_be_replayed() -> None:
    collector = Collector(PENDULUM, MIXTURE[1:], 7)
    episode = collector.collect(3)
    assert episode.observations[""].shape == (len(episode.rewards) + 1, 4)
    assert episode.terminated or len(episode.rewards) == 20
    assert 0.5 <= episode.noise <= 1.0
    environment = make_environment(PENDULUM)
    observation, _ = environment.reset(seed=episode.seed)
    for step, action in enumerate(episode.actions):
        assert np.array_equal(observation, episode.observations[""][step])
        observation, reward, *_ = environment.step(action)
        assert reward == episode.rewards[step]


def test_the_mixture_has_its_weights() -> None:
    collector = Collector(PENDULUM, MIXTURE, 0)
    policies = [collector.collect(number).policy for number in range(200)]
    assert policies.count("random") / 200 == pytest.approx(0.75, abs=0.08)


def test_dict_observations_and_discrete_actions_are_kept_as_the_environment_gives_them() -> None:
    episode = Collector(CORRIDOR, MIXTURE[:1], 0).collect(0)
    assert set(episode.observations) == {"place", "goal"}
    assert episode.actions.dtype == np.int64
    assert set(episode.actions) <= {1, 2}


def test_episodes_without_any_limit_are_refused() -> None:
    endless = EnvironmentConfig(id="tests.collection.mazes:EndlessCorridor-v0")
    with pytest.raises(ConfigError, match=r"environment.max_episode_steps is null and .* has no time limit of its own"):
        Collector(endless, MIXTURE[:1], 0)


def test_an_unknown_environment_is_refused() -> None:
    with pytest.raises(EnvironmentSetupError, match=r"environment.id is 'Nothing-v0'"):
        Collector(EnvironmentConfig(id="Nothing-v0"), MIXTURE[:1], 0)


@pytest.mark.parametrize("environment", [PENDULUM, CORRIDOR], ids=["plain", "dict"])
def test_a_part_file_holds_its_episodes(tmp_path: Path, environment: EnvironmentConfig) -> None:
    collector = Collector(environment, MIXTURE[:1], 0)
    episodes = [collector.collect(number) for number in chunk_episodes(2, 25)]
    path = part_path(tmp_path / "parts", 2)
    write_part(path, episodes)
    assert part_lengths(path, 25) == [len(episode.rewards) for episode in episodes]
    assert all(same(one, other) for one, other in zip(read_part(path), episodes, strict=True))
    assert [entry.name for entry in path.parent.iterdir()] == ["part-000002.npz"]


@pytest.mark.parametrize("size", [1, 25])
def test_chunks_follow_each_other(size: int) -> None:
    assert [number for chunk in range(3) for number in chunk_episodes(chunk, size)] == list(range(3 * size))


def test_a_chunk_of_long_episodes_is_no_longer_than_others() -> None:
    assert {steps: chunk_size(steps) for steps in (1, 200, 201, 1000, 5000, 100_000)} == {
        1: 25,
        200: 25,
        201: 24,
        1000: 5,
        5000: 1,
        100_000: 1,
    }


def test_a_part_file_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    collector = Collector(PENDULUM, MIXTURE[:1], 0)
    path = part_path(tmp_path, 0)
    write_part(path, [collector.collect(number) for number in range(2)])
    whole = path.read_bytes()
    middle = len(whole) // 3
    damaged = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    for content in (b"", whole[: len(whole) // 2], damaged, bytes(len(whole))):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"part-000000.npz cannot be read .*; expected 2 episodes"):
            part_lengths(path, 2)
    path.write_bytes(whole)
    with pytest.raises(DataError, match="holds 2 episodes; expected 3"):
        part_lengths(path, 3)


@pytest.mark.parametrize("environment", [PENDULUM, CORRIDOR], ids=["plain", "dict"])
def test_a_written_data_set_is_minaris_own(tmp_path: Path, environment: EnvironmentConfig) -> None:
    collector = Collector(environment, MIXTURE[:1], 0)
    episodes = [collector.collect(number) for number in range(12)]
    write_dataset(tmp_path, "space/task/mixed-v3", iter(episodes), collector.origin)
    with minari_root(tmp_path):
        assert list(minari.list_local_datasets()) == ["space/task/mixed-v3"]
        dataset = minari.load_dataset("space/task/mixed-v3")
    assert dataset.total_steps == sum(len(episode.rewards) for episode in episodes)
    assert dataset.env_spec.id == environment.id.rpartition(":")[2]
    assert dataset.env_spec.max_episode_steps == (environment.max_episode_steps or 40)
    for found, episode in zip(dataset.iterate_episodes(), episodes, strict=True):
        observations = found.observations if isinstance(found.observations, dict) else {"": found.observations}
        for key, array in episode.observations.items():
            assert np.array_equal(observations[key], array)
        assert np.array_equal(found.actions, episode.actions)
        assert found.terminations.tolist() == [False] * (len(episode.rewards) - 1) + [episode.terminated]
        assert found.truncations.tolist() == [False] * (len(episode.rewards) - 1) + [episode.truncated]
    with h5py.File(tmp_path / "space/task/mixed-v3/data/main_data.hdf5") as file:
        facts = dict(file["episode_11"].attrs)
    assert facts["policy"] == "random"
    assert facts["seed"] == episodes[11].seed
    assert facts["total_reward"] == episodes[11].rewards.sum()


def test_a_written_data_set_can_be_prepared(tmp_path: Path) -> None:
    collector = Collector(CORRIDOR, MIXTURE[:1], 0)
    write_dataset(tmp_path, "space/rooms-v0", [collector.collect(0)], collector.origin)
    source = MinariSource.open("space/rooms-v0", str(tmp_path / "space/rooms-v0"), keys=("place",))
    (episode,) = source.read([0])
    assert source.spaces.action_choices == 2
    assert set(episode.actions.ravel()) <= {0.0, 1.0}
    assert source.environment is not None
    assert source.environment["max_episode_steps"] == 40


def test_two_writes_give_the_same_bytes(tmp_path: Path) -> None:
    collector = Collector(PENDULUM, MIXTURE, 0)
    episodes = [collector.collect(number) for number in range(5)]
    for name in ("a", "b"):
        write_dataset(tmp_path / name, "space/data-v0", episodes, collector.origin)
    files = [
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("a", "b")
    ]
    assert files[0] == files[1]


def test_a_data_set_is_on_the_disk_before_the_parts_it_was_made_of_can_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: set[int] = set()
    monkeypatch.setattr(os, "fsync", lambda file: flushed.add(os.fstat(file).st_ino))
    collector = Collector(PENDULUM, MIXTURE, 0)
    write_dataset(tmp_path, "space/data-v0", [collector.collect(0)], collector.origin)
    assert {path.stat().st_ino for path in tmp_path.rglob("*") if path.is_file()} == flushed


def test_an_interrupted_write_leaves_nothing_that_looks_like_a_data_set(tmp_path: Path) -> None:
    collector = Collector(PENDULUM, MIXTURE, 0)

    def interrupted() -> object:
        yield collector.collect(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path, "space/data-v0", interrupted(), collector.origin)  # type: ignore[arg-type]
    with minari_root(tmp_path):
        assert minari.list_local_datasets() == {}
    write_dataset(tmp_path, "space/data-v0", [collector.collect(0)], collector.origin)
    with minari_root(tmp_path):
        assert list(minari.list_local_datasets()) == ["space/data-v0"]


@pytest.mark.parametrize("dataset_id", ["no-version", "data-v0", "a/data-v0", "sp ace/data-v0", "space/-v0", ""])
def test_a_malformed_id_is_refused_before_anything_is_written(dataset_id: str) -> None:
    with pytest.raises(ConfigError, match=r"collect.dataset_id is '.*'; expected namespace/name-vN"):
        check_dataset_id(dataset_id)
