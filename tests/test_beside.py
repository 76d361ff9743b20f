import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from pipeline import beside
from pipeline.beside import Beside, Repeated, Work, at_the_end
from pipeline.errors import StorageError
from tests.conftest import REPOSITORY


@pytest.fixture
def server() -> Iterator[threading.Event]:
    """A file server that is away until the event is set."""
    server = threading.Event()
    yield server
    server.set()


@pytest.fixture
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "FIRST_WORDS_SECONDS", 0.001)
    monkeypatch.setattr(beside, "LIMIT_SECONDS", 0.005)


def test_what_the_call_gives_is_given() -> None:
    assert Beside().do(lambda: 7, "Reading") == 7


def test_what_the_call_raises_is_raised() -> None:
    def fail() -> None:
        raise ZeroDivisionError("a defect")

    with pytest.raises(ZeroDivisionError, match="a defect"):
        Beside().do(fail, "Reading")


def test_what_has_been_written_is_not_held_any_longer() -> None:
    class Snapshot:
        pass

    snapshot = Snapshot()
    held = weakref.ref(snapshot)
    work = Work(partial(str, snapshot), "Writing")
    del snapshot
    assert work.ended(60)
    assert held() is None


@pytest.mark.usefixtures("little_patience")
class TestStorageThatNeitherTakesNorRefuses:
    def test_is_told_ever_more_seldom_and_given_up(
        self, server: threading.Event, caplog: pytest.LogCaptureFixture
    ) -> None:
        told = r"^Writing step 5 has neither ended nor failed after 0\.005 s; expected storage that answers.*it resumes"
        with pytest.raises(StorageError, match=told):
            Beside().do(server.wait, "Writing step 5")
        assert re.findall(r"Writing step 5 is still under way after (\S+) s", caplog.text) == [
            "0.001",
            "0.002",
            "0.004",
        ]

    def test_and_answers_at_last_has_done_the_work(
        self, server: threading.Event, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(beside, "LIMIT_SECONDS", 1e9)
        monkeypatch.setattr(beside.logger, "warning", lambda *_: server.set())
        assert Beside().do(server.wait, "Writing step 5")

    def test_is_waited_for_at_length_only_once(self, server: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
        waits, work = Beside(), Work(server.wait, "Writing step 5")
        for seconds in ("0.005", "0.001"):
            with pytest.raises(StorageError, match=f"step 5 has neither ended nor failed after {seconds} s"):
                waits.wait(work)
            monkeypatch.setattr(beside, "LIMIT_SECONDS", 1e9)
        server.set()
        assert work.ended(60)
        waits.wait(work)
        assert work.result()

    def test_of_work_that_may_take_long_of_itself_is_told_and_waited_for(
        self, server: threading.Event, caplog: pytest.LogCaptureFixture
    ) -> None:
        work = Work(lambda: Beside(patient=True).do(server.wait, "Downloading"), "Waiting")
        while "under way after 0.032 s" not in caplog.text:  # the limit is 0.005
            assert not work.ended(0.001)
        server.set()
        assert work.ended(60)
        assert work.result()

    def test_holds_nobody_up_who_asks_again_and_again(
        self, server: threading.Event, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[int] = []

        def look() -> int:
            calls.append(len(calls))
            if len(calls) == 2:
                server.wait()
            return calls[-1]

        repeated = Repeated(look, "Looking")
        monkeypatch.setattr(beside, "PROMPT_SECONDS", 60)
        assert repeated(late=-1) == 0
        monkeypatch.setattr(beside, "PROMPT_SECONDS", 0.001)
        assert [repeated(late=-1) for _ in range(3)] == [-1] * 3
        assert calls == [0, 1], "one at a time"
        server.set()
        monkeypatch.setattr(beside, "LIMIT_SECONDS", 1e9)
        assert repeated.last(Beside()) == [1, 2]
        assert repeated.last(Beside()) == [3]

    def test_is_left_alone_by_a_job_that_ends(
        self, server: threading.Event, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(beside, "ENDING_SECONDS", 0.001)
        at_the_end(server.wait, "Removing the lock")
        assert "Removing the lock is left undone after 0.001 s; its storage may be away." in caplog.text


def test_what_a_job_still_does_at_its_end_raises_what_it_raises() -> None:
    with pytest.raises(FileNotFoundError):
        at_the_end(Path("/nowhere/at/all").unlink, "Removing")


def test_a_process_ends_although_the_storage_never_answers() -> None:
    program = "import threading; from pipeline.beside import Work; Work(threading.Event().wait, 'Writing')"
    ended = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, timeout=60, check=False)
    assert ended.returncode == 0
