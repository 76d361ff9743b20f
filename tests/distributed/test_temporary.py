"""Ray's own folder: batch systems name long ones, and disks are full."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import ray

from pipeline.distributed import session as sessions
from pipeline.distributed.session import session
from pipeline.distributed.temporary import SOCKET_BYTES, longest_folder, ray_folder
from pipeline.errors import ClusterError, StorageError
from tests.distributed.sessions import run_session


@pytest.fixture
def no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.ray
def test_the_longest_socket_of_a_session_is_that_which_is_counted_with(ray_session: None) -> None:
    folder = Path(ray._private.worker._global_node.get_session_dir_path())
    counted = len(str(folder.parent.parent)) + SOCKET_BYTES - longest_folder()
    assert max(len(str(path)) for path in (folder / "sockets").iterdir()) == counted


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({}, "/tmp/ray"),
        ({"TMPDIR": ""}, "/tmp/ray"),
        ({"TMPDIR": "."}, "ray"),
        ({"TMPDIR": "long" * 20}, "/tmp/ray"),
        ({"TMPDIR": "long" * 20, "RAY_TMPDIR": "."}, "ray"),
    ],
)
def test_the_folder_is_rays_own_choice_but_a_short_one(
    variables: dict[str, str], folder: str, no_folder: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Path("/tmp") / f"p{os.getpid()}"  # pytest's own are too long
    there.mkdir()
    try:
        monkeypatch.chdir(there)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert ray_folder() == there / folder
    finally:
        shutil.rmtree(there)


def test_another_choice_than_the_systems_is_told(
    no_folder: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long = str(tmp_path / ("x" * 60))
    monkeypatch.setenv("TMPDIR", long)
    assert ray_folder() == Path("/tmp/ray")
    told = capsys.readouterr().out
    assert told.startswith(f"note: TMPDIR is '{long}', a path of {len(long)} bytes, and sockets of Ray allow ")
    assert told.endswith(": its own files go to /tmp/ray. RAY_TMPDIR names another place.\n")


def test_a_long_folder_that_was_asked_for_is_refused_with_the_limit(
    no_folder: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/" + "x" * 99)
    with pytest.raises(StorageError, match=f"^RAY_TMPDIR is '/x+', a path of 100 bytes; .*{longest_folder()}, so that"):
        ray_folder()


def test_a_folder_that_cannot_be_made_is_named_with_the_variable_that_moves_it(
    no_folder: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.distributed.temporary.longest_folder", lambda: 200)
    Path("file").touch()
    monkeypatch.setenv("RAY_TMPDIR", "file")
    message = (
        f"^Ray's folder for sockets and logs, {tmp_path}/file/ray, cannot be used \\(Not a dir.* Set RAY_TMPDIR to"
    )
    with pytest.raises(StorageError, match=message):
        ray_folder()


def test_a_full_disk_is_told_before_ray_starts_on_it(
    no_folder: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(tmp_path)], check=False).returncode:
        pytest.skip("only root may mount a disk that is full")
    try:
        monkeypatch.setattr("pipeline.distributed.temporary.longest_folder", lambda: 200)
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        with pytest.raises(StorageError, match=r"cannot be used \(No space left on device\); .* 16 MiB of room"):
            ray_folder()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_ray_that_does_not_start_says_where_its_logs_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise Exception("The current node timed out during startup. This could happen because")  # Ray's own words

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.setattr(sessions, "ray_folder", lambda: Path("/some/ray"))
    message = (
        r"^Ray did not start in place \(The current node timed out during startup\); .* /some/ray/session_latest/logs"
    )
    with pytest.raises(ClusterError, match=message), session():
        pytest.fail("it started")


@pytest.mark.slow
@pytest.mark.ray
def test_ray_starts_where_a_batch_system_names_a_long_folder(tmp_path: Path) -> None:
    run = run_session(TMPDIR=str(tmp_path / ("x" * 60)))
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("note: TMPDIR is ")
