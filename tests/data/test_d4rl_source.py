from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.data.d4rl_source import D4rlSource
from pipeline.errors import ConfigError, DataError


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
    assert source.lengths().tolist() == [4, 3, 3]
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


def test_without_timeouts_only_terminals_end_episodes(tmp_path: Path) -> None:
    assert D4rlSource.open(write_d4rl(tmp_path / "a.hdf5", timeouts=None)).lengths().tolist() == [4, 6]


def test_a_mark_on_the_last_step_makes_no_empty_episode(tmp_path: Path) -> None:
    path = write_d4rl(tmp_path / "a.hdf5", terminals=np.arange(10) == 9, timeouts=None)
    assert D4rlSource.open(path).lengths().tolist() == [10]


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
