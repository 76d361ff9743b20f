import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.configuration import claim_folder
from pipeline.errors import StorageError
from pipeline.evaluation.results import SCHEMA, EpisodeStore
from pipeline.records import EpisodeResult

Make = Callable[..., EpisodeResult]


def test_episodes_come_back_as_they_were_in_order_of_their_index(tmp_path: Path, make_result: Make) -> None:
    store = EpisodeStore(tmp_path / "episodes")
    results = [make_result(11, 1 / 3, success=True), make_result(2, -4.0, success=False), make_result(0, 7.0)]
    store.add(results[:1])
    store.add(results[1:])
    assert store.read() == sorted(results, key=lambda result: result.episode)
    assert [result.episode for result in store.read(episodes=3)] == [0, 2]


def test_an_episode_that_is_played_again_is_there_once_as_it_was_first(tmp_path: Path, make_result: Make) -> None:
    """The second time it may be filmed, which takes longer."""
    store, first = EpisodeStore(tmp_path), make_result(3, 1.0)
    store.add([first])
    store.add([dataclasses.replace(first, decision_ms_median=77.0, decision_ms_p99=99.0)])
    assert store.read() == [first]


def test_what_is_missing_is_found_from_the_files_alone(tmp_path: Path, make_result: Make) -> None:
    EpisodeStore(tmp_path).add([make_result(1, 1.0), make_result(3, 1.0)])
    assert EpisodeStore(tmp_path).missing(5) == [0, 2, 4]
    assert EpisodeStore(tmp_path / "nothing").missing(2) == [0, 1]
    assert EpisodeStore(tmp_path / "nothing").read() == []


def test_an_interrupted_write_does_not_look_like_an_episode(tmp_path: Path, make_result: Make) -> None:
    store = EpisodeStore(tmp_path)
    store.add([make_result(0, 1.0)])
    (tmp_path / ".episode-000001.parquet.abc.partial").write_bytes(b"PAR1")
    assert store.missing(2) == [1]
    assert len(store.read()) == 1


def test_pandas_reads_the_folder_as_one_table_beside_its_identity(tmp_path: Path, make_result: Make) -> None:
    claim_folder(tmp_path, {"seed": 0}, "episodes")
    store = EpisodeStore(tmp_path)
    store.add([make_result(i, float(i)) for i in range(3)])
    frame = pd.read_parquet(tmp_path)
    assert sorted(frame["total_reward"]) == [0.0, 1.0, 2.0]
    assert list(frame.columns) == SCHEMA.names


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path, make_result: Make) -> None:
    store = EpisodeStore(tmp_path)
    store.add([make_result(0, 1.0)])
    (tmp_path / "episode-000001.parquet").write_bytes(b"no parquet")
    with pytest.raises(
        StorageError, match=r"episode-000001.parquet is not readable .*expected a Parquet file of one episode"
    ):
        store.read()


HOPPER = {"environment": {"id": "Hopper-v5"}, "seed": 0}
PLANNER = {**HOPPER, "row": "trajectory_transformer", "model": {"model.safetensors": "abc"}}


@pytest.mark.parametrize(
    ("other", "stands"),
    [
        ({**HOPPER, "row": "random"}, True),
        ({**PLANNER, "row": "one_step"}, True),
        ({**PLANNER, "model": {"model.safetensors": "def"}}, False),
        ({**HOPPER, "seed": 1}, False),
        ({**HOPPER, "environment": {"id": "Walker2d-v5"}}, False),
    ],
)
def test_episodes_stand_beside_those_of_the_same_environment_seeds_and_model(
    tmp_path: Path, make_result: Make, other: dict[str, Any], stands: bool
) -> None:
    claim_folder(tmp_path, PLANNER, "episodes")
    store = EpisodeStore(tmp_path)
    assert not store.stands_beside([other], episodes=2), "there are no episodes yet"
    store.add([make_result(0, 1.0, error="RuntimeError: no")])
    assert not store.stands_beside([other], episodes=2), "no episode ended"
    store.add([make_result(1, 1.0)])
    assert not store.stands_beside([other], episodes=1), "the episode that ended is not asked for"
    assert store.stands_beside([other], episodes=2) == stands
    assert store.stands_beside([{**HOPPER, "row": "random"}, other], episodes=2) == stands


@pytest.mark.parametrize(("steps", "stands"), [(20, True), (5, False)])
def test_other_targets_stand_beside_each_other_where_they_act_alike(
    tmp_path: Path, make_result: Make, steps: int, stands: bool
) -> None:
    asked = {**HOPPER, "model": {"model.safetensors": "abc"}}
    claim_folder(tmp_path, {**asked, "acting": {"target_return": 1.0, "context_steps": 20}}, "episodes")
    store = EpisodeStore(tmp_path)
    store.add([make_result(0, 1.0)])
    other = {**asked, "acting": {"target_return": 2.0, "context_steps": steps}}
    assert store.stands_beside([other, HOPPER], episodes=1) == stands


def test_a_row_that_was_never_evaluated_stands_beside_none(tmp_path: Path) -> None:
    assert not EpisodeStore(tmp_path / "absent").stands_beside([HOPPER], episodes=2)


def test_results_from_before_processors_were_recorded_are_read(tmp_path: Path, make_result: Make) -> None:
    store = EpisodeStore(tmp_path)
    store.add([make_result(0, 1.0, computed_by="an abacus")])
    path = tmp_path / "episode-000000.parquet"
    pd.read_parquet(path).drop(columns="computed_by").to_parquet(path)
    store.add([make_result(1, 1.0, computed_by="an abacus")])
    assert [result.computed_by for result in store.read()] == [None, "an abacus"]
