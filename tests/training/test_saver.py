from pathlib import Path

import pytest
import torch

from pipeline.errors import StorageError
from pipeline.training import saver
from pipeline.training.checkpoint import CheckpointInfo, list_checkpoints, write_checkpoint
from pipeline.training.saver import CheckpointSaver, Snapshot, superseded


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
    assert {path.name[:5] for path in tmp_path.iterdir()} == {"step-"}


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


def test_storage_that_stays_away_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saver, "write_checkpoint", Flaky(99))
    keeper = make_saver(tmp_path, [])
    keeper.save(snapshot(1))
    with pytest.raises(StorageError, match=r"step 1 could not be written .* in 5 attempts"):
        keeper.save(snapshot(2))
    keeper.close()


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    for name in (".partial-step-000000001", ".deleted-step-000000002"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
    make_saver(tmp_path, []).close()
    assert list(tmp_path.iterdir()) == []
