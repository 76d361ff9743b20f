import json
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary

from pipeline.data.minari_source import MinariSource
from pipeline.errors import DataError
from tests.data.episodes import ACTIONS, counting_episodes, random_episodes, write_minari


def opened(folder: Path, **options: object) -> MinariSource:
    return MinariSource.open("test/data-v0", str(folder), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_episodes_come_back_as_they_were_written(tmp_path: Path, data_format: str) -> None:
    episodes = random_episodes([4, 1, 7])
    source = opened(write_minari(tmp_path, "test/data-v0", episodes, data_format=data_format))
    assert source.lengths().tolist() == [4, 1, 7]
    for episode, expected in zip(source.read([0, 1, 2]), episodes, strict=True):
        assert (episode.source, episode.episode_id) == ("test/data-v0", expected.episode_id)
        assert np.array_equal(episode.observations, expected.observations)
        assert np.array_equal(episode.actions, expected.actions)
        assert np.array_equal(episode.rewards, expected.rewards)
        assert (episode.terminated, episode.truncated) == (expected.terminated, expected.truncated)


def test_a_range_of_many_episodes_is_read_by_number_and_not_by_name(tmp_path: Path) -> None:
    # HDF5 lists episode_10 before episode_2.
    source = opened(write_minari(tmp_path, "test/data-v0", counting_episodes([2] * 12)))
    assert [episode.observations[0, 0] for episode in source.read([9, 10, 11, 2])] == [9, 10, 11, 2]


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_a_dict_observation_is_flattened_by_the_keys(tmp_path: Path, data_format: str) -> None:
    space = Dict({"goal": Box(-9, 9, (1,), np.float32), "place": Box(-9, 9, (2,), np.float64)})
    folder = write_minari(tmp_path, "test/maze-v0", counting_episodes([3]), space, data_format=data_format)
    source = opened(folder, keys=("place", "goal"))
    (episode,) = source.read([0])
    # counting_episodes' columns are (episode, step, 100 episode + step): goal is the first, place the others.
    assert episode.observations.tolist() == [[step, step, 0] for step in range(4)]
    assert source.spaces.observation_names == ("place[0]", "place[1]", "goal[0]")


def test_a_discrete_action_becomes_its_index(tmp_path: Path) -> None:
    episodes = counting_episodes([4])
    episodes[0].actions[:, 0] = [0, 2, 1, 2]
    source = opened(write_minari(tmp_path, "test/rooms-v0", episodes, action_space=Discrete(3, start=1)))
    (episode,) = source.read([0])
    assert episode.actions.tolist() == [[0], [2], [1], [2]]
    assert source.spaces.action_choices == 3


def test_flags_and_integers_are_read_as_numbers(tmp_path: Path) -> None:
    episodes = random_episodes([5])
    episodes[0].observations[:] = np.random.default_rng(0).integers(0, 2, (6, 3))
    source = opened(write_minari(tmp_path, "test/flags-v0", episodes, MultiBinary(3)))
    (episode,) = source.read([0])
    assert np.array_equal(episode.observations, episodes[0].observations)


def test_columns_are_dropped_where_they_are_read(tmp_path: Path) -> None:
    folder = write_minari(tmp_path, "test/data-v0", counting_episodes([3]))
    (episode,) = opened(folder, columns=("1:",)).read([0])
    assert episode.observations.tolist() == [[step, step] for step in range(4)]


def test_environment_and_reference_scores_are_known_where_the_data_set_names_them(tmp_path: Path) -> None:
    environment = gymnasium.make("InvertedPendulum-v5", max_episode_steps=200)
    space, actions = Box(-np.inf, np.inf, (3,), np.float64), ACTIONS
    folder = write_minari(
        tmp_path,
        "test/data-v0",
        random_episodes([3]),
        space,
        actions,
        env=environment,
        ref_min_score=1.0,
        ref_max_score=5.0,
    )
    source = opened(folder)
    assert source.environment == {"id": "InvertedPendulum-v5", "max_episode_steps": 200, "kwargs": {}}
    assert source.reference_scores == (1.0, 5.0)
    plain = opened(write_minari(tmp_path, "test/plain-v0", random_episodes([3])))
    assert plain.environment is None
    assert plain.reference_scores is None


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_the_fingerprint_changes_with_the_data_set(tmp_path: Path, data_format: str) -> None:
    def fingerprint(root: str, seed: int) -> str:
        episodes = random_episodes([3, 4], seed)
        return opened(write_minari(tmp_path / root, "test/a-v0", episodes, data_format=data_format)).fingerprint()

    # Collected again elsewhere, with the same counts and sizes: the numbers alone differ.
    assert fingerprint("first", 0) == fingerprint("copy", 0) != fingerprint("again", 1)


def test_an_empty_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"test/data-v0 at .* has 0 episodes; expected at least 1"):
        opened(write_minari(tmp_path, "test/data-v0", []))


def test_a_folder_that_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read .*; expected a Minari data set"):
        opened(tmp_path)


def test_a_cut_off_file_is_refused(tmp_path: Path) -> None:
    folder = write_minari(tmp_path, "test/data-v0", random_episodes([50] * 20))
    path = folder / "data" / "main_data.hdf5"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"of test/data-v0 cannot be read .*The download may be incomplete"):
        list(opened(folder).read([0, 19]))


def test_an_episode_that_is_counted_but_not_there_is_refused(tmp_path: Path) -> None:
    folder = write_minari(tmp_path, "test/data-v0", random_episodes([5] * 3))
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        del file["episode_1"]
    with pytest.raises(DataError, match=r"episode 1 of test/data-v0 cannot be read \(KeyError"):
        list(opened(folder).read([0, 1, 2]))


def test_observations_of_another_shape_than_the_space_says_are_refused(tmp_path: Path) -> None:
    folder = write_minari(tmp_path, "test/data-v0", random_episodes([5]))
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0/observations"]
        file["episode_0/observations"] = np.zeros((6, 4))
    with pytest.raises(DataError, match=r"Episode 0 of test/data-v0: observations has the shape \(6, 4\).*6 rows of 3"):
        list(opened(folder).read([0]))


def test_a_space_that_is_not_supported_is_refused_with_the_data_sets_name(tmp_path: Path) -> None:
    folder = write_minari(tmp_path, "test/data-v0", random_episodes([5]))
    path = folder / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["observation_space"] = json.dumps({"type": "Text", "max_length": 5, "min_length": 1, "charset": "ab"})
    path.write_text(json.dumps(metadata))
    with pytest.raises(DataError, match=r"test/data-v0: the observation space is Text.*; expected Box, Discrete"):
        opened(folder)


def test_the_real_hopper_data_set_reads_as_its_metadata_says(shared: Path) -> None:
    source = MinariSource.open("own/hopper/medium-v0", str(shared / "datasets" / "own" / "hopper" / "medium-v0"))
    assert source.lengths().sum() == 100_237
    assert (source.spaces.observation_dim, source.spaces.action_dim) == (11, 3)
    episodes = list(source.read([0, 208]))
    assert [len(episode.observations) for episode in episodes] == [episode.num_steps + 1 for episode in episodes]
    assert source.environment is not None
    assert source.environment["id"] == "Hopper-v5"
