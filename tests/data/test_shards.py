from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipeline.data.config import DataConfig
from pipeline.data.manifest import read_manifest
from pipeline.data.shards import ShardSettings, finished_shard, read_tokens, write_shard
from pipeline.data.storage import Folder
from pipeline.data.transitions import transition_table
from tests.data.episodes import counting_episodes, random_episodes
from tests.data.in_memory import write_shards

LENGTHS = [3, 25, 1, 12, 9, 30]


def write(folder: Path, **settings: object) -> Path:
    config = DataConfig.model_validate({"num_bins": 200, "validation_share": 0.0, **settings})
    write_shards(folder, counting_episodes(LENGTHS), config)
    return folder


@pytest.mark.parametrize(("steps_per_shard", "steps_per_row"), [(1, 1), (7, 4), (30, 1000), (1000, 10)])
def test_every_step_of_every_episode_comes_back_in_order(
    tmp_path: Path, steps_per_shard: int, steps_per_row: int
) -> None:
    folder = write(tmp_path, steps_per_shard=steps_per_shard, steps_per_row=steps_per_row)
    episodes = read_tokens(folder, "train")
    numbers = read_manifest(folder).discretizer.decode(episodes.tokens)
    assert np.diff(episodes.offsets).tolist() == LENGTHS
    expected = [[number, step] for number, length in enumerate(LENGTHS) for step in range(length)]
    assert np.round(numbers[:, :2]).tolist() == expected


def test_tokens_are_those_of_the_discretizer(tmp_path: Path) -> None:
    episodes = random_episodes(LENGTHS)
    manifest = write_shards(tmp_path, episodes, DataConfig(num_bins=11, validation_share=0.0, termination_penalty=-7.0))
    tables = [transition_table(episode, 0.99, -7.0) for episode in episodes]
    tokens = manifest.discretizer.encode(np.concatenate(tables))
    assert np.array_equal(read_tokens(tmp_path, "train").tokens, tokens)


def test_the_splits_share_the_episodes(tmp_path: Path) -> None:
    write_shards(
        tmp_path, counting_episodes([4] * 20), DataConfig(num_bins=30, validation_share=0.3, steps_per_shard=9)
    )
    found = []
    for split in ("train", "validation"):
        episodes = read_tokens(tmp_path, split)
        found.append({int(token) for token in episodes.tokens[:, 0]})
        assert len(found[-1]) == episodes.num_episodes == {"train": 14, "validation": 6}[split]
    assert found[0] | found[1] == set(range(20))
    assert not found[0] & found[1]


def test_an_empty_split_has_no_episodes(tmp_path: Path) -> None:
    episodes = read_tokens(write(tmp_path), "validation")
    assert episodes.num_episodes == 0
    assert episodes.tokens.shape == (0, 7)


def test_more_than_255_bins_take_two_bytes(tmp_path: Path) -> None:
    episodes = read_tokens(write(tmp_path, num_bins=256), "train")
    assert episodes.tokens.dtype == np.uint16


def test_two_writes_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", steps_per_shard=30), write(tmp_path / "b", steps_per_shard=30)
    assert {path.name: path.read_bytes() for path in first.iterdir()} == {
        path.name: path.read_bytes() for path in second.iterdir()
    }


def test_a_row_group_holds_about_the_steps_of_a_row(tmp_path: Path) -> None:
    write_shards(tmp_path, counting_episodes([10] * 20), DataConfig(num_bins=30, steps_per_row=25))
    metadata = pq.read_metadata(tmp_path / "shard-00000.parquet")
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [3] * 6 + [2]
    assert {metadata.row_group(0).column(place).compression for place in range(9)} == {"ZSTD"}


def test_arrow_pandas_and_duckdb_read_the_same_rows(tmp_path: Path) -> None:
    folder = write(tmp_path, steps_per_shard=20, steps_per_row=10)
    pattern = str(folder / "*.parquet")
    arrow = pq.read_table(sorted(folder.glob("*.parquet"))).to_pylist()
    pandas = pd.concat(pd.read_parquet(path) for path in sorted(folder.glob("*.parquet")))
    rows = duckdb.sql(f"select * from '{pattern}' order by episode_id, start").fetchall()
    assert [row["length"] for row in arrow] == pandas["length"].tolist() == [row[3] for row in rows]
    assert [list(row["tokens"]) for row in arrow] == [list(row) for row in pandas["tokens"]] == [row[8] for row in rows]
    assert (arrow[0]["source"], arrow[0]["split"], arrow[0]["total_reward"]) == ("memory", "train", 3.0)
    steps = duckdb.sql(f"select sum(length), sum(len(tokens)), count(distinct episode_id) from '{pattern}'").fetchall()
    assert steps == [(80, 80 * 7, 6)]


def test_a_finished_shard_is_recognised_by_its_settings(tmp_path: Path) -> None:
    episodes = random_episodes([8, 8])
    discretizer = write_shards(tmp_path / "fit", episodes, DataConfig(num_bins=5)).discretizer
    settings = ShardSettings(discretizer, 0.99, None, 1000)
    folder = Folder(tmp_path / "shards")
    assert finished_shard(folder, 3, settings) is None
    record = write_shard(folder, 3, [(episode, "train") for episode in episodes], settings)
    assert finished_shard(folder, 3, settings) == record
    assert finished_shard(folder, 3, ShardSettings(discretizer, 0.9, None, 1000)) is None
    assert finished_shard(folder, 3, ShardSettings(discretizer, 0.99, None, 1000, origin="other data")) is None


def test_a_cut_off_shard_is_not_finished(tmp_path: Path) -> None:
    episodes = random_episodes([8, 8])
    discretizer = write_shards(tmp_path / "fit", episodes, DataConfig(num_bins=5)).discretizer
    settings, folder = ShardSettings(discretizer, 0.99, None, 1000), Folder(tmp_path)
    write_shard(folder, 0, [(episode, "train") for episode in episodes], settings)
    assert finished_shard(folder, 0, settings) is not None
    path = tmp_path / "shard-00000.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    assert finished_shard(folder, 0, settings) is None
