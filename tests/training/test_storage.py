import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.errors import StorageError
from pipeline.training.config import TrainingConfig
from pipeline.training.storage import checkpoint_room, require_room


def test_room_is_for_the_best_the_last_and_the_one_being_written() -> None:
    assert checkpoint_room(1000, TrainingConfig(keep_best=2)) == 1000 * 12 * 4


def test_a_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**29))
    require_room(tmp_path, 2**29)
    with pytest.raises(StorageError, match=r"has 0\.5 GiB left .* expected at least 1 GiB"):
        require_room(tmp_path, 2**30)


def test_what_a_run_holds_already_needs_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**29))
    checkpoint = tmp_path / "step-000000010"
    checkpoint.mkdir()
    with (checkpoint / "model.safetensors").open("wb") as file:
        file.truncate(2**29)
    require_room(tmp_path, 2**30)
    with pytest.raises(StorageError, match=r"beside the 0\.5 GiB that it holds; expected at least 1\.5 GiB in all"):
        require_room(tmp_path, 3 * 2**29)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        require_room(tmp_path / "file" / "checkpoints", 0)


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    require_room(tmp_path / "checkpoints", 0)
    assert list((tmp_path / "checkpoints").iterdir()) == []
