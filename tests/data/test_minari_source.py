import errno
import json
from dataclasses import replace
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary
from minari.data_collector import EpisodeBuffer

from pipeline.data.minari_source import MinariSource
from pipeline.errors import DataError, PipelineError, StorageError
from tests.data.episodes import ACTIONS, counting_episodes, random_episodes, write_buffers, write_minari
from tests.data.writing import held_for_writing


def opened(folder: Path, **options: object) -> MinariSource:
    return MinariSource.open("test/data-v0", str(folder), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_episodes_come_back_as_they_were_written(tmp_path: Path, data_format: str) -> None:
    episodes = random_episodes([4, 1, 7])
    source = opened(write_minari(tmp_path, "test/data-v0", episodes, data_format=data_format))
    assert source.listing().lengths.tolist() == [4, 1, 7]
    assert source.listing().ids.tolist() == [0, 1, 2]
    assert source.listing().divided == 0
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
    named = {"id": "InvertedPendulum-v5", "max_episode_steps": 200, "kwargs": {}, "additional_wrappers": []}
    assert source.environment == named
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
    with pytest.raises(
        DataError, match=r"of test/data-v0 at .* cannot be read .*incomplete: .* another place, and rem"
    ):
        list(opened(folder).read([0, 19]))


def test_an_episode_that_is_counted_but_not_there_is_refused(tmp_path: Path) -> None:
    folder = write_minari(tmp_path, "test/data-v0", random_episodes([5] * 3))
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        del file["episode_1"]
    with pytest.raises(DataError, match=r"episode 1 of test/data-v0 at .* cannot be read \(KeyError"):
        list(opened(folder).read([0, 1, 2]))
    with pytest.raises(DataError, match=r"episode 1 of test/data-v0 at .* cannot be read \(KeyError"):
        opened(folder).listing()


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


def recorded(root: Path, steps: int = 10, data_format: str = "hdf5", **changes: object) -> Path:
    """Three episodes of the same steps, of which only the second differs from what `write_minari` writes."""
    buffers = [
        EpisodeBuffer(
            id=number,
            observations=100.0 * number + np.arange(3.0 * (steps + 1)).reshape(steps + 1, 3),
            actions=np.full((steps, 2), number / 10, np.float32),
            rewards=10.0 * number + np.arange(steps),
            terminations=np.zeros(steps, np.bool_),
            truncations=np.arange(steps) == steps - 1,
        )
        for number in range(3)
    ]
    buffers[1] = replace(buffers[1], **changes)
    return write_buffers(root, "test/data-v0", buffers, data_format)


def at(*steps: int) -> np.ndarray:
    return np.isin(np.arange(10), steps)


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
def test_an_end_in_the_middle_of_a_recorded_episode_ends_an_episode(tmp_path: Path, data_format: str) -> None:
    folder = recorded(tmp_path, data_format=data_format, terminations=at(4), truncations=at(6, 9))
    source = opened(folder)
    listing = source.listing()
    assert listing.ids.tolist() == [0, 1, 4, 7, 2]
    assert listing.lengths.tolist() == [10, 5, 2, 3, 10]
    assert listing.divided == 1
    _, first, second, third, _ = source.read(listing.ids.tolist())
    assert [part.episode_id for part in (first, second, third)] == [1, 4, 7]
    assert [part.terminated for part in (first, second, third)] == [True, False, False]
    assert [part.truncated for part in (first, second, third)] == [False, True, True]
    assert [part.rewards.tolist() for part in (first, second, third)] == [[10, 11, 12, 13, 14], [15, 16], [17, 18, 19]]
    assert [len(part.actions) for part in (first, second, third)] == [5, 2, 3]
    # A part begins with its own row; what its last action led to is known behind the last step alone.
    assert first.observations[:, 0].tolist() == [100, 103, 106, 109, 112, 112]
    assert second.observations[:, 0].tolist() == [115, 118, 118]
    assert third.observations[:, 0].tolist() == [121, 124, 127, 130]


def test_a_part_is_read_alone_as_with_the_others(tmp_path: Path) -> None:
    source = opened(recorded(tmp_path, terminations=at(4), truncations=at(6, 9)))
    (alone,) = source.read([4])
    (together,) = [episode for episode in source.read([1, 4, 7]) if episode.episode_id == 4]
    assert np.array_equal(alone.observations, together.observations)
    assert np.array_equal(alone.rewards, together.rewards)


def test_a_limit_divides_what_no_mark_has_ended(tmp_path: Path) -> None:
    source = opened(recorded(tmp_path, terminations=at(4)), limit=8)
    assert source.listing().lengths.tolist() == [8, 2, 5, 5, 8, 2]
    cut, rest = source.read([0, 3])
    assert (cut.terminated, cut.truncated, rest.rewards.tolist()) == (False, True, [8, 9])


def test_an_episode_that_ends_without_a_mark_was_cut_off(tmp_path: Path) -> None:
    (episode,) = opened(recorded(tmp_path, truncations=at())).read([1])
    assert (episode.terminated, episode.truncated) == (False, True)


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
@pytest.mark.parametrize("terminations", [at(), at(4)])
def test_an_episode_with_as_many_observations_as_steps_is_unusable_in_all_its_parts(
    tmp_path: Path, data_format: str, terminations: np.ndarray
) -> None:
    observations = np.zeros((10, 3))
    folder = recorded(tmp_path, data_format=data_format, observations=observations, terminations=terminations)
    source = opened(folder)
    episodes = list(source.read(source.listing().ids.tolist()))
    assert {episode.defect for episode in episodes if episode.episode_id % 3 == 1} == {
        "has 10 rewards, but 10 observations"
    }
    assert [episode.num_steps for episode in episodes if not episode.defect] == [10, 10]


def test_whatever_does_not_fit_the_steps_is_named(tmp_path: Path) -> None:
    folder = recorded(tmp_path)
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        for name, rows in (("actions", 9), ("terminations", 8)):
            array = file[f"episode_1/{name}"][:rows]
            del file[f"episode_1/{name}"]
            file[f"episode_1/{name}"] = array
    source = opened(folder)
    assert source.listing().ids.tolist() == [0, 1, 2]
    assert [episode.defect for episode in source.read([0, 1, 2])] == [
        "",
        "has 10 rewards, but 9 actions and 8 terminations",
        "",
    ]


def test_two_rewards_a_step_are_refused_in_those_words(tmp_path: Path) -> None:
    source = opened(recorded(tmp_path, rewards=np.zeros((10, 2))))
    with pytest.raises(
        DataError,
        match=r"Episode 1 of test/data-v0: rewards has the shape \(10, 2\) .*; expected one number for each of 10 st",
    ):
        list(source.read([1]))


@pytest.mark.parametrize("data_format", ["arrow", "parquet"])
def test_infos_that_minari_cannot_read_are_left_alone(tmp_path: Path, data_format: str) -> None:
    source = opened(recorded(tmp_path, data_format=data_format, infos={"n": np.arange(11.0)}))
    (episode,) = source.read([1])
    assert episode.rewards.tolist() == list(range(10, 20))


def test_a_long_episode_is_whole_where_arrow_reads_it_in_several_batches(tmp_path: Path) -> None:
    # 131 072 rows are one batch of pyarrow's.
    source = opened(recorded(tmp_path, steps=140_000, data_format="parquet"))
    assert source.listing().lengths.tolist() == [140_000] * 3
    assert [(episode.num_steps, episode.rewards[0]) for episode in source.read([0, 1])] == [(140_000, 0), (140_000, 10)]


def test_a_file_that_is_being_written_is_not_called_damaged(tmp_path: Path) -> None:
    folder = recorded(tmp_path)
    source = opened(folder)
    with held_for_writing(folder / "data" / "main_data.hdf5"):
        for read in (source.listing, lambda: list(source.read([0]))):
            with pytest.raises(StorageError, match=r"cannot be read \(BlockingIOError.* Wait until the program"):
                read()
    assert source.listing().lengths.tolist() == [10, 10, 10]


@pytest.mark.parametrize(
    ("error", "kind", "advice"),
    [
        (OSError(errno.ENOLCK, "unable to lock file"), StorageError, "HDF5_USE_FILE_LOCKING=FALSE"),
        (OSError(errno.ENOSYS, "unable to lock file"), StorageError, "HDF5_USE_FILE_LOCKING=FALSE"),
        (OSError(errno.EACCES, "unable to open file"), StorageError, "Look at its permissions"),
        (OSError(errno.EIO, "unable to read"), StorageError, "the data itself may be whole"),
        (OSError("file is already open for write (may use <h5clear file>)"), StorageError, "h5clear --status"),
        (OSError(errno.ENOENT, "no such file"), DataError, "remove nothing before"),
        (OSError("truncated file: eof = 500"), DataError, "remove nothing before"),
        (RuntimeError("unable to get link info"), DataError, "remove nothing before"),
    ],
)
def test_what_a_machine_refuses_is_told_apart_from_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[PipelineError], advice: str
) -> None:
    def refused(*_: object) -> None:
        raise error

    source = opened(recorded(tmp_path))
    monkeypatch.setattr("h5py.File", refused)
    with pytest.raises(kind, match=f"episode 0 of test/data-v0 at .* cannot be read .*{advice}"):
        source.listing()


def specification(command: str) -> str:
    known = json.loads(gymnasium.spec("Pendulum-v1").to_json())
    return json.dumps({**known, "id": "Elsewhere-v1", "entry_point": "os:system", "kwargs": {"command": command}})


@pytest.mark.parametrize("space", ["absent", None, 3, "null", "[]", '{"type": "Nothing"}'])
@pytest.mark.parametrize("name", ["observation_space", "action_space"])
def test_a_data_set_without_its_spaces_is_refused_and_nothing_that_it_names_is_made(
    tmp_path: Path, name: str, space: object
) -> None:
    folder = recorded(tmp_path)
    path = folder / "data" / "metadata.json"
    metadata = {**json.loads(path.read_text()), name: space, "env_spec": specification(f"touch {tmp_path}/ran")}
    if space == "absent":
        del metadata[name]
    path.write_text(json.dumps(metadata))
    with pytest.raises(DataError, match=r"does not name both spaces in its metadata; expected|cannot be read"):
        opened(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"env_spec": "{bad"},
        {"env_spec": "[1]"},
        {"env_spec": {"id": 3}},
        {"ref_min_score": "a", "ref_max_score": 1},
        {"ref_min_score": float("nan"), "ref_max_score": 1},
        {"ref_min_score": 0, "ref_max_score": [1]},
        {"total_episodes": "2"},
        {"total_episodes": 2.5},
        {"total_episodes": None},
        {"data_format": 3},
        {"jpeg_encoding": []},
    ],
)
def test_metadata_of_other_types_is_told_before_anything_is_read(tmp_path: Path, changes: dict[str, object]) -> None:
    folder = recorded(tmp_path)
    path = folder / "data" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    if "jpeg_encoding" in changes:  # of images alone, which are not supported
        opened(folder)
        return
    with pytest.raises(DataError, match=r"; expected"):
        opened(folder)


def test_a_single_number_is_no_column(tmp_path: Path) -> None:
    folder = recorded(tmp_path)
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        group = file["episode_0"]
        del group["observations"]
        group["observations"] = 3.0
    assert "observations" in next(iter(opened(folder).read([0]))).defect


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, "\xff"])
def test_metadata_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    folder = recorded(tmp_path)
    (folder / "data" / "metadata.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match="cannot be read"):
        opened(folder)


def test_the_real_hopper_data_set_reads_as_its_metadata_says(shared: Path) -> None:
    source = MinariSource.open("own/hopper/medium-v0", str(shared / "datasets" / "own" / "hopper" / "medium-v0"))
    assert source.listing().lengths.sum() == 100_237
    assert (source.spaces.observation_dim, source.spaces.action_dim) == (11, 3)
    episodes = list(source.read([0, 208]))
    assert [len(episode.observations) for episode in episodes] == [episode.num_steps + 1 for episode in episodes]
    assert source.environment is not None
    assert source.environment["id"] == "Hopper-v5"
