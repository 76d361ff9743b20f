import os
import pickle
from pathlib import Path

import pytest

from pipeline import errors
from pipeline.configuration import claim_folder, differences, write_atomically, write_text_atomically
from pipeline.errors import PipelineError, RunFolderError
from pipeline.evaluation.config import EvaluationConfig
from pipeline.planning.config import PlanningConfig


def test_an_identity_leaves_out_what_only_changes_how_a_stage_runs() -> None:
    assert EvaluationConfig(episodes=3).identity() == EvaluationConfig(episodes=4, num_actors=2).identity()


def test_an_identity_holds_what_changes_the_result() -> None:
    assert PlanningConfig(horizon=3).identity() != PlanningConfig(horizon=4).identity()


def test_differences_name_every_nested_field() -> None:
    old = {"a": {"b": 1, "c": 2}, "d": 3}
    assert differences(old, {"a": {"b": 1, "c": 5}, "e": 3}) == [
        "a.c: was 2, is 5",
        "d: was 3, is 'absent'",
        "e: was 'absent', is 3",
    ]


def test_a_folder_is_claimed_once_and_again_by_the_same_configuration(tmp_path: Path) -> None:
    for _ in range(2):
        claim_folder(tmp_path / "shards", {"data": {"num_bins": 100}}, "shards")
    assert (tmp_path / "shards" / "_identity.yaml").read_text() == "data:\n  num_bins: 100\n"


def test_a_folder_of_another_configuration_is_refused_with_the_fields_that_differ(tmp_path: Path) -> None:
    claim_folder(tmp_path, {"data": {"num_bins": 100}}, "shards")
    with pytest.raises(
        RunFolderError, match=r"holds shards of another configuration(.|\n)*data\.num_bins: was 100, is 50"
    ):
        claim_folder(tmp_path, {"data": {"num_bins": 50}}, "shards")


def test_a_folder_of_unknown_origin_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "shard-00000.parquet").touch()
    with pytest.raises(RunFolderError, match=r"holds 'shard-00000\.parquet' but no _identity\.yaml"):
        claim_folder(tmp_path, {"data": {"num_bins": 100}}, "shards")


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.yaml"
    write_text_atomically(path, "old")

    def fail(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write_text_atomically(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.yaml"]


def test_a_file_gets_its_name_after_its_bytes_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    flush, rename = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: order.append("flushed") or flush(file))
    monkeypatch.setattr(Path, "replace", lambda self, target: order.append("named") or rename(self, target))
    write_atomically(tmp_path / "new" / "file", b"content")
    assert order == ["flushed", "named"]
    assert (tmp_path / "new" / "file").read_bytes() == b"content"


ERRORS = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, PipelineError)]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_an_error_survives_the_way_between_processes(kind: type[PipelineError]) -> None:
    copy = pickle.loads(pickle.dumps(kind("horizon is 0; expected at least 1.")))  # noqa: S301 (our own bytes)
    assert type(copy) is kind
    assert str(copy) == "horizon is 0; expected at least 1."
