import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import beside
from pipeline.errors import RunFolderError, StorageError
from pipeline.training import saver
from pipeline.training.checkpoint import CheckpointInfo, Selection, list_checkpoints, write_checkpoint
from pipeline.training.saver import CheckpointSaver, Snapshot, superseded
from pipeline.training.storage import ATTEMPTS


def snapshot(step: int, loss: float | None = None) -> Snapshot:
    return Snapshot(CheckpointInfo(step, 0, loss), {"weight": torch.zeros(1)}, {"step": step})


def make_saver(parent: Path, pauses: list[float], keep_best: int = 1) -> CheckpointSaver:
    return CheckpointSaver(parent, {}, "{}", keep_best, pauses.append)


class Flaky:
    """Refuses the first `failures` writes."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    def __call__(self, *arguments: object) -> Path:
        if self.failures:
            self.failures -= 1
            raise OSError(28, "No space left on device")
        return write_checkpoint(*arguments)  # type: ignore[arg-type]


def test_the_best_and_the_last_are_kept(tmp_path: Path) -> None:
    keeper = make_saver(tmp_path, [])
    for step, loss in ((1, 0.5), (2, 0.3), (3, 0.4), (4, None)):
        keeper.save(snapshot(step, loss))
    keeper.close()
    assert [folder.name[-1] for folder in list_checkpoints(tmp_path)] == ["2", "4"]
    assert {path.name[:5] for path in tmp_path.iterdir()} == {"step-", ".writ"}


@pytest.mark.parametrize(
    ("measure", "kept"), [("loss_action", "24"), ("error_action", "24"), ("accuracy_action", "14")]
)
def test_the_best_by_another_measure_are_kept_whatever_the_loss_is(tmp_path: Path, measure: str, kept: str) -> None:
    keeper = make_saver(tmp_path, [])
    for step, value in ((1, 0.5), (2, 0.3), (3, 0.4), (4, None)):
        info = CheckpointInfo(step, 0, validation_loss=1 / step, selection=Selection(measure, value))
        keeper.save(Snapshot(info, {"weight": torch.zeros(1)}, {"step": step}))
    keeper.close()
    assert "".join(folder.name[-1] for folder in list_checkpoints(tmp_path)) == kept


@pytest.mark.parametrize(
    ("losses", "keep_best", "gone"),
    [
        ([0.5, 0.3, 0.4], 1, [0]),
        ([0.5, 0.3, 0.4], 2, [0]),
        ([0.5, 0.3, 0.4, None], 2, [0]),
        ([None, None], 1, [0]),
        ([0.1], 1, []),
        ([], 1, []),
    ],
)
def test_superseded(losses: list[float | None], keep_best: int, gone: list[int]) -> None:
    folders = [Path(str(index)) for index in range(len(losses))]
    assert superseded(dict(zip(folders, losses, strict=True)), keep_best) == [folders[index] for index in gone]


def test_a_write_that_fails_is_tried_again_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(saver, "write_checkpoint", Flaky(2))
    pauses: list[float] = []
    keeper = make_saver(tmp_path, pauses)
    keeper.save(snapshot(1))
    keeper.close()
    assert [folder.name for folder in list_checkpoints(tmp_path)] == ["step-000000001"]
    assert pauses == [1, 2]
    assert "No space left on device" in caplog.text
    assert "attempt 3 of 5 follows in 2 s" in caplog.text


def test_storage_that_stays_away_costs_checkpoints_but_the_last_one_must_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    flaky = Flaky(2 * ATTEMPTS)
    monkeypatch.setattr(saver, "write_checkpoint", flaky)
    keeper = make_saver(tmp_path, [])
    failures = []
    for step in (1, 2, 3):
        keeper.save(snapshot(step))
        keeper.settle()
        failures.append(keeper.failures)
    assert failures == [1, 2, 0]
    assert [folder.name for folder in list_checkpoints(tmp_path)] == ["step-000000003"]
    assert re.findall(r"No checkpoint of step (\d): .*No space left", caplog.text) == ["1", "2"]
    flaky.failures = ATTEMPTS
    keeper.save(snapshot(4))
    with pytest.raises(StorageError, match=r"step 4 could not be written .* in 5 attempts"):
        keeper.close()


class TestStorageThatNeitherTakesNorRefuses:
    """As a network file system does that is mounted `hard` and whose server is away."""

    @pytest.fixture(autouse=True)
    def little_patience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(beside, "FIRST_WORDS_SECONDS", 0.001)
        monkeypatch.setattr(beside, "LIMIT_SECONDS", 0.005)

    @pytest.fixture
    def hanging(self, tmp_path: Path) -> Iterator[CheckpointSaver]:
        server = threading.Event()
        keeper = make_saver(tmp_path, [])
        keeper.save(snapshot(1), server.wait)
        yield keeper
        server.set()

    @pytest.mark.parametrize(
        "wait",
        [
            lambda keeper: keeper.save(snapshot(2)),
            lambda keeper: keeper.settle(),
            lambda keeper: keeper.discard(1),
            lambda keeper: keeper.close(),
        ],
        ids=["save", "settle", "discard", "close"],
    )
    def test_ends_every_wait_with_words(
        self, hanging: CheckpointSaver, wait: Callable[[CheckpointSaver], None], caplog: pytest.LogCaptureFixture
    ) -> None:
        with pytest.raises(
            StorageError, match=r"^Writing the checkpoint of step 1 into \S+ has neither ended nor failed"
        ):
            wait(hanging)
        assert "Writing the checkpoint of step 1 into" in caplog.text
        with pytest.raises(StorageError, match="step 1 into"):  # it is still under way
            hanging.close()


def test_nothing_is_written_before_what_must_come_first(tmp_path: Path) -> None:
    keeper, attempts = make_saver(tmp_path, []), []

    def before() -> None:
        attempts.append(len(list_checkpoints(tmp_path)))
        if len(attempts) < 3:
            raise OSError(28, "No space left on device")

    keeper.save(snapshot(1), before)
    keeper.close()
    assert attempts == [0, 0, 0]
    assert len(list_checkpoints(tmp_path)) == 1


def test_what_the_storage_does_not_let_go_of_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(folder: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise OSError(39, "Directory not empty", f"{folder}/.nfs0001")

    keeper = make_saver(tmp_path, [])
    keeper.save(snapshot(1))
    keeper.settle()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refuse)
        keeper.save(snapshot(2))
        keeper.settle()
        assert keeper.failures == 0
        assert [folder.name for folder in list_checkpoints(tmp_path)] == ["step-000000002"]
        assert re.search(r"deleted-step-000000001\S* could not be removed .*\.nfs0001", caplog.text)
        (tmp_path / "another" / ".partial-step-000000001.1").mkdir(parents=True)
        make_saver(tmp_path / "another", [])  # starts, whatever another process left
    keeper.save(snapshot(3))
    keeper.close()
    assert sorted(path.name for path in tmp_path.glob("*step*")) == ["step-000000003"]


def test_old_checkpoints_that_cannot_be_looked_at_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keeper = make_saver(tmp_path, [])
    keeper.save(snapshot(1))
    keeper.settle()
    (tmp_path / "step-000000001" / "checkpoint.json").write_text("{")
    keeper.save(snapshot(2))
    keeper.close()
    assert re.search(r"Old checkpoints in .* could not be looked at .*checkpoint\.json is not readable", caplog.text)


class TestTakenOver:
    def test_a_worker_that_was_lost_writes_no_checkpoint_any_more(self, tmp_path: Path) -> None:
        lost = make_saver(tmp_path, [])
        lost.save(snapshot(1))
        lost.settle()
        goes_on = make_saver(tmp_path, [])
        lost.save(snapshot(2))
        with pytest.raises(RunFolderError, match=r"is written by process \d+ on .*; expected this one.*has taken over"):
            lost.close()
        assert [folder.name for folder in list_checkpoints(tmp_path)] == ["step-000000001"]
        goes_on.save(snapshot(2))
        goes_on.close()
        assert [folder.name for folder in list_checkpoints(tmp_path)] == ["step-000000002"]

    def test_a_worker_that_was_lost_removes_nothing_any_more(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lost = make_saver(tmp_path, [])
        lost.save(snapshot(1))
        lost.settle()

        def write_and_lose(*arguments: Any) -> None:
            write_checkpoint(*arguments)
            make_saver(tmp_path, [])

        monkeypatch.setattr(saver, "write_checkpoint", write_and_lose)
        lost.save(snapshot(2))
        with pytest.raises(RunFolderError, match="has taken over the run"):
            lost.settle()
        with pytest.raises(RunFolderError, match="has taken over the run"):
            lost.discard(1)
        assert [folder.name[-1] for folder in list_checkpoints(tmp_path)] == ["1", "2"]


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    for name in (".partial-step-000000001.1", ".deleted-step-000000002.1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
    make_saver(tmp_path, []).close()
    assert [path.name for path in tmp_path.iterdir()] == [".writer"]


@pytest.mark.parametrize(("killed_after", "found"), [(1, "old"), (2, "new")])
def test_a_checkpoint_that_was_being_replaced_is_there_again(tmp_path: Path, killed_after: int, found: str) -> None:
    """Killed after one of the two renames: the old one goes aside, the new one comes."""
    folder, replaced = tmp_path / "step-000000001", tmp_path / ".replaced-step-000000001"
    for place, content in [(replaced, "old"), (folder, "new")][:killed_after]:
        place.mkdir()
        (place / "checkpoint.json").write_text(content)
    make_saver(tmp_path, []).close()
    assert (folder / "checkpoint.json").read_text() == found
    assert sorted(path.name for path in tmp_path.iterdir()) == [".writer", folder.name]
