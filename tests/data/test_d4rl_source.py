from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.data.d4rl_source import D4rlSource
from pipeline.errors import ConfigError, DataError, StorageError
from tests.data.writing import held_for_writing


def write_d4rl(path: Path, steps: int = 10, **changes: object) -> str:
    """Ten steps: three episodes of 4 (terminal), 3 (timeout) and 3 (cut off by the end of the file)."""
    arrays: dict[str, object] = {
        "observations": np.arange(2.0 * steps, dtype=np.float32).reshape(steps, 2),
        "next_observations": np.arange(2.0 * steps, dtype=np.float32).reshape(steps, 2) + 0.5,
        "actions": np.arange(float(steps)).reshape(steps, 1),
        "rewards": np.arange(float(steps)),
        "terminals": np.arange(steps) == 3,
        "timeouts": np.arange(steps) == 6,
        **changes,
    }
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            if array is not None:
                file[name] = array
    return str(path)


def test_episodes_end_at_terminals_and_timeouts_and_at_the_end_of_the_file(tmp_path: Path) -> None:
    source = D4rlSource.open(write_d4rl(tmp_path / "a.hdf5"))
    assert source.listing().lengths.tolist() == [4, 3, 3]
    first, second, third = source.read([0, 1, 2])
    assert first.rewards.tolist() == [0, 1, 2, 3]
    assert second.rewards.tolist() == [4, 5, 6]
    assert third.rewards.tolist() == [7, 8, 9]
    assert [(episode.terminated, episode.truncated) for episode in (first, second, third)] == [
        (True, False),
        (False, True),
        (False, True),
    ]


def test_the_last_observation_is_the_next_observation_of_the_last_step(tmp_path: Path) -> None:
    (episode,) = D4rlSource.open(write_d4rl(tmp_path / "a.hdf5")).read([1])
    assert episode.observations.tolist() == [[8, 9], [10, 11], [12, 13], [12.5, 13.5]]


def test_without_next_observations_the_last_one_is_repeated(tmp_path: Path) -> None:
    (episode,) = D4rlSource.open(write_d4rl(tmp_path / "a.hdf5", next_observations=None)).read([1])
    assert episode.observations.tolist() == [[8, 9], [10, 11], [12, 13], [12, 13]]


def test_a_file_without_timeouts_is_refused_because_its_walks_run_into_each_other(tmp_path: Path) -> None:
    path = write_d4rl(tmp_path / "a.hdf5", timeouts=None)
    with pytest.raises(
        DataError,
        match=r"a.hdf5 has no timeouts, so its longest episode would have 6 of all 10 steps; expected to know where "
        r".* Set data.max_episode_steps to the time limit",
    ):
        D4rlSource.open(path)


def test_a_file_that_marks_no_end_at_all_is_refused(tmp_path: Path) -> None:
    nothing = np.zeros(10, np.bool_)
    path = write_d4rl(tmp_path / "a.hdf5", terminals=nothing, timeouts=nothing)
    with pytest.raises(DataError, match=r"marks no end, .* 10 of all 10 steps; expected to know"):
        D4rlSource.open(path)
    assert D4rlSource.open(path, limit=10).listing().lengths.tolist() == [10]


def test_without_timeouts_episodes_end_at_terminals_and_at_the_limit_that_is_given(tmp_path: Path) -> None:
    source = D4rlSource.open(write_d4rl(tmp_path / "a.hdf5", timeouts=None, next_observations=None), limit=5)
    assert source.listing().lengths.tolist() == [4, 5, 1]
    terminal, limited, last = source.read([0, 1, 2])
    assert (terminal.terminated, limited.terminated, last.terminated) == (True, False, False)
    assert (terminal.truncated, limited.truncated, last.truncated) == (False, True, True)
    assert limited.rewards.tolist() == [4, 5, 6, 7, 8]
    # The row behind the limit is the next walk's first.
    assert limited.observations[-2:].tolist() == [[16, 17], [16, 17]]
    assert last.observations.tolist() == [[18, 19], [18, 19]]


def test_a_limit_ends_no_episode_that_a_mark_ended_before(tmp_path: Path) -> None:
    path = write_d4rl(tmp_path / "a.hdf5")
    assert D4rlSource.open(path, limit=4).listing().lengths.tolist() == [4, 3, 3]
    assert D4rlSource.open(path, limit=4).fingerprint() == D4rlSource.open(path).fingerprint()
    assert D4rlSource.open(path, limit=3).fingerprint() != D4rlSource.open(path).fingerprint()


def test_a_mark_on_the_last_step_makes_no_empty_episode(tmp_path: Path) -> None:
    path = write_d4rl(tmp_path / "a.hdf5", terminals=np.arange(10) == 9, timeouts=np.zeros(10))
    assert D4rlSource.open(path).listing().lengths.tolist() == [10]


def test_columns_can_be_dropped(tmp_path: Path) -> None:
    (episode,) = D4rlSource.open(write_d4rl(tmp_path / "a.hdf5"), columns=("1",)).read([0])
    assert episode.observations[:, 0].tolist() == [1, 3, 5, 7, 7.5]


def test_the_fingerprint_changes_where_episodes_end_elsewhere(tmp_path: Path) -> None:
    first = D4rlSource.open(write_d4rl(tmp_path / "a.hdf5"))
    second = D4rlSource.open(write_d4rl(tmp_path / "b.hdf5", timeouts=np.arange(10) == 7))
    assert first.fingerprint() != second.fingerprint()


def test_a_file_without_a_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a.hdf5 lacks \['terminals'\]; expected a D4RL file with"):
        D4rlSource.open(write_d4rl(tmp_path / "a.hdf5", terminals=None))


def test_columns_of_different_lengths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected the same number of steps everywhere, at least 1"):
        D4rlSource.open(write_d4rl(tmp_path / "a.hdf5", rewards=np.zeros(9)))


@pytest.mark.parametrize("name", ["timeouts", "next_observations"])
def test_columns_that_may_be_missing_have_the_same_length_too(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="expected the same number of steps everywhere, at least 1"):
        D4rlSource.open(write_d4rl(tmp_path / "a.hdf5", **{name: np.zeros((9, 1))}))


@pytest.mark.parametrize("name", ["rewards", "terminals", "timeouts"])
def test_two_numbers_a_step_are_refused_where_there_is_one(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        DataError, match=rf"a.hdf5 has {name} of the shape \(10, 2\); expected one number for each of 10 steps"
    ):
        D4rlSource.open(write_d4rl(tmp_path / "a.hdf5", **{name: np.zeros((10, 2))}))


def test_a_column_of_one_number_a_step_is_read_as_such(tmp_path: Path) -> None:
    columns = {
        "rewards": np.arange(10.0).reshape(10, 1),
        "terminals": (np.arange(10.0) == 3).reshape(10, 1).astype(np.float32),
        "timeouts": (np.arange(10.0) == 6).reshape(10, 1),
    }
    first, second, _ = D4rlSource.open(write_d4rl(tmp_path / "a.hdf5", **columns)).read([0, 1, 2])
    assert (first.rewards.tolist(), first.terminated) == ([0, 1, 2, 3], True)
    assert (second.rewards.tolist(), second.terminated) == ([4, 5, 6], False)


def test_a_file_that_is_being_written_is_not_called_damaged(tmp_path: Path) -> None:
    path = write_d4rl(tmp_path / "a.hdf5")
    with (
        held_for_writing(Path(path)),
        pytest.raises(StorageError, match=r"a.hdf5 cannot be read \(BlockingIOError.* Wait until the program"),
    ):
        D4rlSource.open(path)
    assert D4rlSource.open(path).listing().lengths.tolist() == [4, 3, 3]


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 1"):
        D4rlSource.open(write_d4rl(tmp_path / "a.hdf5", steps=0))


def test_a_file_that_is_no_hdf5_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.hdf5").write_text("nothing")
    with pytest.raises(DataError, match=r"a.hdf5 cannot be read .*; expected an HDF5 file of D4RL"):
        D4rlSource.open(str(tmp_path / "a.hdf5"))


def test_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected null: D4RL's observations are flat"):
        D4rlSource.open(write_d4rl(tmp_path / "a.hdf5"), keys=("observation",))


def without_rewards(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["rewards"]


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize("damage", [without_rewards, cut_off])
def test_a_file_that_was_damaged_meanwhile_is_an_error_of_the_data(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    source = D4rlSource.open(write_d4rl(tmp_path / "a.hdf5"))
    damage(tmp_path / "a.hdf5")
    with pytest.raises(
        DataError, match=r"a.hdf5 cannot be read \((OSError|KeyError): .*; expected an HDF5 file of D4RL"
    ):
        list(source.read([0]))
