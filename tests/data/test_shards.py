from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipeline.data.config import DataConfig
from pipeline.data.manifest import read_manifest
from pipeline.data.returns import RewardTreatment
from pipeline.data.shards import ShardSettings, finished_shard, read_table, require_columns, step_bytes, write_shard
from pipeline.data.storage import Folder
from pipeline.data.table import ACTIONS, OBSERVATIONS, RETURNS_TO_GO, REWARDS, TOKENS
from pipeline.data.transitions import transition_table
from pipeline.errors import DataError, ManifestError
from pipeline.tokens.discretizer import Discretizer
from tests.data.episodes import counting_episodes, random_episodes
from tests.data.in_memory import write_shards

LENGTHS = [3, 25, 1, 12, 9, 30]
VALUES = (OBSERVATIONS, ACTIONS, REWARDS)


def write(folder: Path, **settings: object) -> Path:
    config = DataConfig.model_validate({"num_bins": 200, "validation_share": 0.0, **settings})
    write_shards(folder, counting_episodes(LENGTHS), config)
    return folder


@pytest.mark.parametrize(("steps_per_shard", "steps_per_row"), [(1, 1), (7, 4), (30, 1000), (1000, 10)])
def test_every_step_of_every_episode_comes_back_in_order(
    tmp_path: Path, steps_per_shard: int, steps_per_row: int
) -> None:
    folder = write(tmp_path, steps_per_shard=steps_per_shard, steps_per_row=steps_per_row)
    episodes = read_table(folder, "train", [TOKENS, *VALUES, RETURNS_TO_GO])
    numbers = read_manifest(folder).discretizer.decode(episodes[TOKENS])
    assert np.diff(episodes.offsets).tolist() == LENGTHS
    expected = [[number, step] for number, length in enumerate(LENGTHS) for step in range(length)]
    assert np.round(numbers[:, :2]).tolist() == expected
    assert episodes[OBSERVATIONS][:, :2].tolist() == expected
    written = counting_episodes(LENGTHS)
    assert np.array_equal(episodes[ACTIONS], np.concatenate([episode.actions for episode in written], dtype=np.float32))
    assert np.array_equal(episodes[REWARDS], np.ones(sum(LENGTHS)))
    assert episodes[RETURNS_TO_GO].tolist() == [length - step for length in LENGTHS for step in range(length)]
    assert {episodes[name].dtype for name in (*VALUES, RETURNS_TO_GO)} == {np.dtype(np.float32)}
    assert episodes.terminated.all()
    assert episodes.total_rewards.tolist() == LENGTHS


def test_values_take_no_more_bytes_than_their_four(tmp_path: Path) -> None:
    """Parquet's own choice, a dictionary of numbers that never recur, takes half as many again."""
    write_shards(tmp_path, random_episodes([400] * 5), DataConfig(num_bins=20, validation_share=0.0))
    group = pq.read_metadata(tmp_path / "shard-00000.parquet").row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    for name, width in ((OBSERVATIONS, 3 * 2005), (ACTIONS, 2 * 2000), (REWARDS, 2000)):
        column = columns[f"{name}.list.element"]
        assert "BYTE_STREAM_SPLIT" in column.encodings
        assert column.total_compressed_size < 1.02 * 4 * width


def test_tokens_are_those_of_the_discretizer(tmp_path: Path) -> None:
    episodes = random_episodes(LENGTHS)
    manifest = write_shards(tmp_path, episodes, DataConfig(num_bins=11, validation_share=0.0, termination_penalty=-7.0))
    treatment = RewardTreatment(discount=0.99, termination_penalty=-7.0)
    tables = [transition_table(episode, treatment) for episode in episodes]
    tokens = manifest.discretizer.encode(np.concatenate(tables))
    assert np.array_equal(read_table(tmp_path, "train", [TOKENS])[TOKENS], tokens)


def test_the_splits_share_the_episodes(tmp_path: Path) -> None:
    write_shards(
        tmp_path, counting_episodes([4] * 20), DataConfig(num_bins=30, validation_share=0.3, steps_per_shard=9)
    )
    found = []
    for split in ("train", "validation"):
        episodes = read_table(tmp_path, split, [TOKENS])
        found.append({int(token) for token in episodes[TOKENS][:, 0]})
        assert len(found[-1]) == episodes.num_episodes == {"train": 14, "validation": 6}[split]
    assert found[0] | found[1] == set(range(20))
    assert not found[0] & found[1]


def test_an_empty_split_has_no_episodes(tmp_path: Path) -> None:
    episodes = read_table(write(tmp_path), "validation", [TOKENS, *VALUES, RETURNS_TO_GO])
    assert (episodes.num_episodes, episodes.num_steps) == (0, 0)
    assert [column.shape for column in episodes.columns.values()] == [(0, 7), (0, 3), (0, 2), (0,), (0,)]


def test_more_than_255_bins_take_two_bytes(tmp_path: Path) -> None:
    episodes = read_table(write(tmp_path, num_bins=256), "train", [TOKENS])
    assert episodes[TOKENS].dtype == np.uint16


def test_two_writes_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", steps_per_shard=30), write(tmp_path / "b", steps_per_shard=30)
    assert {path.name: path.read_bytes() for path in first.iterdir()} == {
        path.name: path.read_bytes() for path in second.iterdir()
    }


def test_a_row_group_holds_about_the_steps_of_a_row(tmp_path: Path) -> None:
    write_shards(tmp_path, counting_episodes([10] * 20), DataConfig(num_bins=30, steps_per_row=25))
    metadata = pq.read_metadata(tmp_path / "shard-00000.parquet")
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [3] * 6 + [2]
    assert metadata.num_columns == 12
    assert {metadata.row_group(0).column(place).compression for place in range(12)} == {"ZSTD"}


def test_arrow_pandas_and_duckdb_read_the_same_rows(tmp_path: Path) -> None:
    folder = write(tmp_path, steps_per_shard=20, steps_per_row=10)
    pattern = str(folder / "*.parquet")
    arrow = pq.read_table(sorted(folder.glob("*.parquet"))).to_pylist()
    pandas = pd.concat(pd.read_parquet(path) for path in sorted(folder.glob("*.parquet")))
    rows = duckdb.sql(f"select * from '{pattern}' order by episode_id, start").fetchall()
    assert [row["length"] for row in arrow] == pandas["length"].tolist() == [row[3] for row in rows]
    for place, name in enumerate((TOKENS, *VALUES), start=8):
        assert [row[name] for row in arrow] == [list(row) for row in pandas[name]] == [row[place] for row in rows]
    assert (arrow[0]["source"], arrow[0]["split"], arrow[0]["total_reward"]) == ("memory", "train", 3.0)
    steps = duckdb.sql(f"select sum(length), sum(len(tokens)), count(distinct episode_id) from '{pattern}'").fetchall()
    assert steps == [(80, 80 * 7, 6)]


@pytest.mark.parametrize("steps_per_row", [1000, 10])
def test_pandas_alone_finds_all_values_of_every_row(tmp_path: Path, steps_per_row: int) -> None:
    """The observation between two rows of a long episode is in both."""
    episodes = random_episodes(LENGTHS)
    write_shards(tmp_path, episodes, DataConfig(num_bins=5, steps_per_row=steps_per_row))
    frame = pd.read_parquet(tmp_path / "shard-00000.parquet")
    assert frame["length"].sum() == sum(LENGTHS)
    assert (len(frame) > len(LENGTHS)) == (steps_per_row == 10)
    for row in frame.itertuples():
        episode, end = episodes[row.episode_id], row.start + row.length
        assert np.array_equal(row.observations, episode.observations[row.start : end + 1].ravel().astype(np.float32))
        assert np.array_equal(row.actions, episode.actions[row.start : end].ravel().astype(np.float32))
        assert np.array_equal(row.rewards, episode.rewards[row.start : end].astype(np.float32))
        assert {getattr(row, name).dtype for name in VALUES} == {np.dtype(np.float32)}


def test_values_have_no_penalty_and_the_return_is_the_environments(tmp_path: Path) -> None:
    episodes = random_episodes([4, 6])
    for name, settings in (("penalty", {"termination_penalty": -7.0}), ("delayed", {"delay_rewards": True})):
        config = DataConfig.model_validate({"num_bins": 5, "validation_share": 0.0, **settings})
        manifest = write_shards(tmp_path / name, episodes, config)
        assert manifest.treatment == config.reward_treatment
        (returns,) = manifest.statistics.returns
        assert returns.mean == pytest.approx(np.mean([episode.rewards.sum() for episode in episodes]))
    penalised, delayed = (read_table(tmp_path / name, "train", [TOKENS, REWARDS]) for name in ("penalty", "delayed"))
    whole = [np.append(np.zeros(len(episode.rewards) - 1), episode.rewards.sum()) for episode in episodes]
    assert np.array_equal(delayed[REWARDS], np.concatenate(whole, dtype=np.float32))
    assert np.array_equal(
        penalised[REWARDS], np.concatenate([episode.rewards for episode in episodes], dtype=np.float32)
    )
    for table in (penalised, delayed):
        assert table.total_rewards.tolist() == [episode.rewards.sum() for episode in episodes]


@pytest.mark.parametrize(("store", "stored", "missing"), [("tokens", (TOKENS,), VALUES), ("values", VALUES, (TOKENS,))])
def test_what_is_not_stored_is_left_out_and_told_to_whoever_asks(
    tmp_path: Path, store: str, stored: tuple[str, ...], missing: tuple[str, ...]
) -> None:
    both, folder = write(tmp_path / "both"), write(tmp_path / store, store=store)
    manifest = read_manifest(folder)
    assert manifest.columns == stored
    assert pq.read_schema(folder / "shard-00000.parquet").names[8:] == list(stored)
    found, expected = read_table(folder, "train", stored), read_table(both, "train", stored)
    assert all(np.array_equal(found[name], expected[name]) for name in stored)
    for column in missing:
        told = (
            f"{folder} holds {' and '.join(stored)} of each step, but no {column}; expected them for this method. "
            "Set data.store to both and prepare again under another --name."
        )
        with pytest.raises(ManifestError) as of_reading:
            read_table(folder, "train", [column])
        with pytest.raises(ManifestError) as of_the_check:
            require_columns(manifest, [column], str(folder))
        assert str(of_reading.value) == str(of_the_check.value) == told
    if REWARDS in missing:
        with pytest.raises(ManifestError, match="but no rewards; expected"):
            read_table(folder, "train", [RETURNS_TO_GO])


@pytest.mark.parametrize(("num_bins", "token_bytes"), [(100, 1), (256, 4)])
def test_the_bytes_of_a_step_are_those_that_a_training_holds(tmp_path: Path, num_bins: int, token_bytes: int) -> None:
    manifest = read_manifest(write(tmp_path, num_bins=num_bins))
    assert step_bytes(manifest, [TOKENS]) == 7 * token_bytes
    assert step_bytes(manifest, [*VALUES, RETURNS_TO_GO]) == 4 * (3 + 2 + 1 + 1)


@pytest.mark.parametrize(
    ("name", "number", "delayed"), [(OBSERVATIONS, 4e38, False), (ACTIONS, -4e38, False), (REWARDS, 3e38, True)]
)
def test_a_number_beyond_float32_is_refused_where_values_are_stored(
    tmp_path: Path, name: str, number: float, delayed: bool
) -> None:
    """The last row is one that no token is made of; two rewards of 3e38 are too large together."""
    episode, other = random_episodes([5, 5])
    array = getattr(episode, name).copy()
    array[-2 if delayed else -1 :] = number
    episodes = [replace(episode, **{name: array}), other]
    config = {"num_bins": 5, "validation_share": 0.0, "delay_rewards": delayed}
    told = rf"Episode 0 of memory has {name} up to \de\+38; expected at most 3\.4e\+38, .* Set data\.store to tokens"
    with pytest.raises(DataError, match=told):
        write_shards(tmp_path, episodes, DataConfig.model_validate(config))
    write_shards(tmp_path, episodes, DataConfig.model_validate({**config, "store": "tokens"}))


TREATMENT = RewardTreatment(discount=0.99)


@pytest.fixture(scope="module")
def discretizer(tmp_path_factory: pytest.TempPathFactory) -> Discretizer:
    manifest = write_shards(tmp_path_factory.mktemp("fit"), random_episodes([8, 8]), DataConfig(num_bins=5))
    return manifest.discretizer


def test_a_finished_shard_is_recognised_by_its_settings(tmp_path: Path, discretizer: Discretizer) -> None:
    settings = ShardSettings(discretizer, TREATMENT, "both", 1000)
    folder = Folder(tmp_path / "shards")
    assert finished_shard(folder, 3, settings) is None
    record = write_shard(folder, 3, [(episode, "train") for episode in random_episodes([8, 8])], settings)
    assert finished_shard(folder, 3, settings) == record
    for change in (
        {"treatment": RewardTreatment(discount=0.9)},
        {"treatment": RewardTreatment(discount=0.99, termination_penalty=-1.0)},
        {"treatment": RewardTreatment(discount=0.99, delayed=True)},
        {"store": "tokens"},
        {"steps_per_row": 999},
        {"origin": "other data"},
    ):
        assert finished_shard(folder, 3, replace(settings, **change)) is None  # type: ignore[arg-type]


def test_a_shard_of_an_older_format_is_not_finished(
    tmp_path: Path, discretizer: Discretizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, folder = ShardSettings(discretizer, TREATMENT, "both", 1000), Folder(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.data.shards.FORMAT", 1)
        write_shard(folder, 0, [(episode, "train") for episode in random_episodes([8, 8])], settings)
        assert finished_shard(folder, 0, settings) is not None
    assert finished_shard(folder, 0, settings) is None


def test_a_cut_off_shard_is_not_finished(tmp_path: Path, discretizer: Discretizer) -> None:
    settings, folder = ShardSettings(discretizer, TREATMENT, "both", 1000), Folder(tmp_path)
    write_shard(folder, 0, [(episode, "train") for episode in random_episodes([8, 8])], settings)
    assert finished_shard(folder, 0, settings) is not None
    path = tmp_path / "shard-00000.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    assert finished_shard(folder, 0, settings) is None
