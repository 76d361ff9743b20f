import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.beside import Work
from pipeline.errors import RunFolderError
from pipeline.exclusive import exclusive
from tests.conftest import REPOSITORY

HOLD = """
import sys, time
from pathlib import Path
from pipeline.exclusive import exclusive
with exclusive(Path(sys.argv[1]), "training"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_training_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    held = rf"{tmp_path} is written by the training of process {os.getpid()} on {re.escape(socket.gethostname())} since"
    told = pytest.raises(RunFolderError, match=held + r" .*; expected one training .*--name")
    with exclusive(tmp_path, "training"), told, exclusive(tmp_path, "training"):
        pass
    with exclusive(tmp_path, "training"):
        pass
    assert (tmp_path / ".lock").read_text() == ""


def test_a_killed_training_holds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(RunFolderError, match=f"process {other.pid} on"), exclusive(tmp_path, "training"):
            pass
        other.send_signal(signal.SIGKILL)
        other.wait(30)
    with exclusive(tmp_path, "training"):
        assert f'"pid": {os.getpid()}' in (tmp_path / ".lock").read_text()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_the_file_system_has_no_locks_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with exclusive(tmp_path, "training"), exclusive(tmp_path, "training"):
        pass
    told = f"{tmp_path} cannot be locked ({os.strerror(number)}): see that no other job writes into it."
    assert capsys.readouterr().out.splitlines() == [told, told]


def test_another_stage_is_called_by_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "behaviour"
    told = pytest.raises(RunFolderError, match=r"behaviour is written by the collection of .*; expected one collection")
    with exclusive(folder, "collection"), told, exclusive(folder, "collection"):
        pass


def test_who_has_not_written_its_name_yet_holds_it_all_the_same(tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with (
            pytest.raises(RunFolderError, match="is written by another training; expected"),
            exclusive(tmp_path, "training"),
        ):
            pass


def test_a_lock_is_kept_while_somebody_still_writes_though_nobody_waits_any_more(tmp_path: Path) -> None:
    written, works = threading.Event(), []

    def interrupted() -> None:
        with exclusive(tmp_path, "training"):
            works.append(Work(written.wait, "Writing"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(RunFolderError, match="is written by the training of process"), exclusive(tmp_path, "training"):
        pass
    written.set()
    assert works[0].ended(60)
