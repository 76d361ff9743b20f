import os
from pathlib import Path

import pytest

from pipeline.models.private_folder import is_writable, private_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / f"trajectory-pipeline-numba-{os.getuid()}"


def test_it_is_made_for_this_user_alone_and_found_again(folder: Path) -> None:
    assert private_folder(folder.parent, "numba") == folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert private_folder(folder.parent, "numba") == folder
    assert private_folder(folder.parent, "triton") != folder


def test_one_that_others_can_write_to_is_left_alone(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o720)
    assert private_folder(folder.parent, "numba") is None


def test_one_of_another_user_is_left_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    (folder.parent / f"trajectory-pipeline-numba-{user + 1}").mkdir(mode=0o700)
    assert private_folder(folder.parent, "numba") is None


def test_a_link_to_another_folder_is_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    assert private_folder(tmp_path, "numba") is None


def test_below_a_file_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert private_folder(tmp_path / "file", "numba") is None
    assert not is_writable(tmp_path / "file" / "folder")
    assert is_writable(tmp_path / "new" / "folder")
