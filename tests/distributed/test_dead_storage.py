"""Drivers on storage that neither answers nor refuses, as a network file system mounted `hard` whose server is away.

A thread that asks it is lost until the server is back: no signal but SIGKILL reaches it. So the main thread, which
tells and takes signals, must never be the one that asks.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import pipeline.distributed.train
import pipeline.training.control
from pipeline import beside, command_line
from pipeline.data.storage import Folder
from pipeline.distributed.collect import collect
from pipeline.distributed.evaluate import evaluate
from pipeline.distributed.prepare import prepare
from pipeline.distributed.shared_storage import shared
from pipeline.distributed.sweep import sweep
from pipeline.distributed.train import train
from pipeline.distributed.train_worker import stop_request, train_worker
from pipeline.experiment import Experiment
from pipeline.run_folder import RunFolder
from pipeline.training.metrics import MetricsTail
from tests.conftest import REPOSITORY
from tests.data.episodes import random_episodes, write_minari
from tests.distributed.driver import WAIT_S, Trainer, Waits
from tests.distributed.stages import experiment as experiment_of
from tests.distributed.test_evaluate import LosingPool, made
from tests.distributed.training_runs import make_run


class Touches(list[str]):
    """What the main thread asked of the file system below a folder, while it is watched."""

    folder: Path | None = None

    def audit(self, event: str, arguments: tuple[object, ...]) -> None:
        """Python calls it at whatever it audits, for good: no hook can be taken back."""
        if self.folder is not None and arguments:
            self.note(event, arguments[0])

    def note(self, what: str, path: object) -> None:
        if self.folder is None or threading.current_thread() is not threading.main_thread():
            return
        if isinstance(path, str | os.PathLike) and Path(os.fspath(path)).is_relative_to(self.folder):
            self.append(f"{what} {path}")

    @contextlib.contextmanager
    def watched(self, folder: Path) -> Iterator[None]:
        self.folder = folder
        try:
            yield
        finally:
            self.folder = None


_TOUCHES = Touches()
sys.addaudithook(_TOUCHES.audit)


@pytest.fixture
def touches(monkeypatch: pytest.MonkeyPatch) -> Touches:
    """Of calls that Python's audit does not tell, stat and pyarrow's are watched by hand."""
    _TOUCHES.clear()
    for name in ("stat", "lstat"):
        monkeypatch.setattr(os, name, told(getattr(os, name), name, lambda path: path))
    for name in ("exists", "names", "read", "open", "write", "remove"):
        monkeypatch.setattr(Folder, name, told(getattr(Folder, name), name, lambda folder: folder.local))
    return _TOUCHES


def told(real: Callable[..., Any], name: str, path_of: Callable[[Any], object]) -> Callable[..., Any]:
    def call(first: Any, *arguments: Any, **options: Any) -> Any:
        _TOUCHES.note(name, path_of(first))
        return real(first, *arguments, **options)

    return call


class TestTheMainThreadAsksNothingOfTheStorage:
    def test_of_a_training(self, tmp_path: Path, trainer: type[Trainer], touches: Touches) -> None:
        experiment, run = make_run(tmp_path)
        for _ in range(2):  # the second time there is nothing to do
            with touches.watched(tmp_path):
                train(experiment, run)
        assert not touches

    def test_of_a_training_that_is_stopped(
        self, tmp_path: Path, trainer: type[Trainer], waits: Waits, touches: Touches
    ) -> None:
        experiment, run = make_run(tmp_path)

        def work(_recipe: dict[str, Any]) -> None:
            waits.until("the first steps of 1 worker")
            os.kill(os.getpid(), signal.SIGINT)
            pause = threading.Event()
            while not stop_request(run).exists():
                pause.wait(0.01)

        trainer.works = staticmethod(work)
        with touches.watched(tmp_path), pytest.raises(KeyboardInterrupt):
            train(experiment, run)
        assert not touches

    def test_of_an_evaluation(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, touches: Touches) -> None:
        class Pool(LosingPool):
            fatal = ()

        monkeypatch.setattr("pipeline.distributed.evaluate.RolloutPool", Pool)
        monkeypatch.setattr("pipeline.distributed.evaluate.wanted_actors", lambda *_, **__: 1)
        experiment, run = made(tmp_path)
        for _ in range(2):
            with touches.watched(tmp_path):
                evaluate(experiment, run)
        assert not touches

    def test_of_a_sweep(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, touches: Touches) -> None:
        def tick(_plan: Any, _actors: int, on_tick: Callable[[], None]) -> list[Exception]:
            on_tick()
            return []

        monkeypatch.setattr("pipeline.distributed.sweep.run_trials", tick)
        monkeypatch.setattr("pipeline.distributed.sweep.wanted_actors", lambda *_, **__: 1)
        experiment, run = made(tmp_path)
        for _ in range(2):
            with touches.watched(tmp_path):
                sweep(experiment, run)
        assert not touches

    @pytest.mark.ray
    @pytest.mark.usefixtures("ray_session")
    def test_of_a_collection(self, tmp_path: Path, touches: Touches) -> None:
        for _ in range(2):
            with touches.watched(tmp_path):
                collect(*experiment_of(tmp_path, "collected", collect={"steps": 300}))
        assert not touches

    @pytest.mark.ray
    @pytest.mark.usefixtures("ray_session")
    def test_of_a_preparation(self, tmp_path: Path, touches: Touches) -> None:
        write_minari(tmp_path, "test/data-v0", random_episodes([20] * 20))
        data = {"sources": [{"id": "test/data-v0", "root": str(tmp_path)}], "num_bins": 9, "steps_per_shard": 100}
        for name in ("first", "first", "second"):
            more = {"discretizer_from": str(tmp_path / "first" / "shards")} if name == "second" else {}
            with touches.watched(tmp_path):
                prepare(*experiment_of(tmp_path, name, data={**data, **more}))
        assert not touches

    def test_of_any_job_before_and_after_its_stage(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, touches: Touches
    ) -> None:
        config = tmp_path.with_suffix(".yaml")
        config.write_text(yaml.safe_dump({"name": "once", "runs": str(tmp_path / "runs")}))
        monkeypatch.setattr(sys, "argv", ["job", "--config", str(config)])
        seen: list[RunFolder] = []

        def stage(_experiment: Experiment, run: RunFolder) -> None:
            seen.append(run)
            with shared(str(run.root)):
                pass

        with touches.watched(tmp_path / "runs"):
            command_line.job(stage, "")
        config.write_text(yaml.safe_dump({"name": "twice", "runs": str(tmp_path / "runs")}))
        with touches.watched(tmp_path / "runs"), pytest.raises(ZeroDivisionError):
            command_line.job(lambda _, run: seen.append(run) or 1 / 0, "")
        assert not touches
        assert [run.root.exists() for run in seen] == [True, False]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A file server that is away until the event is set, and little patience with it."""
    monkeypatch.setattr(beside, "PROMPT_SECONDS", 0.01)
    monkeypatch.setattr(beside, "ENDING_SECONDS", 0.01)
    server = threading.Event()
    yield server
    server.set()


class TestATrainingWhoseStorageDoesNotAnswer:
    def test_says_so_and_goes_on_when_it_does(
        self,
        tmp_path: Path,
        trainer: type[Trainer],
        waits: Waits,
        server: threading.Event,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        experiment, run = make_run(tmp_path)
        read, away = MetricsTail.read, threading.Event()

        def hang(tail: MetricsTail) -> list[dict[str, Any]]:
            if away.is_set():
                server.wait()
            return read(tail)

        def work(recipe: dict[str, Any]) -> None:
            away.set()
            waits.until(
                re.escape(f"{run.metrics} to be readable (its storage does not answer), and for more steps of 1 worker")
            )
            train_worker(recipe)
            server.set()

        monkeypatch.setattr(MetricsTail, "read", hang)
        trainer.works = staticmethod(work)
        train(experiment, run)
        rows = capsys.readouterr().out.splitlines()
        assert [row[10:19] for row in rows if "/2 ·" in row] == ["epoch 1/2", "epoch 2/2"]

    def test_goes_on_while_nobody_can_see_whether_it_shall_stop(
        self, tmp_path: Path, trainer: type[Trainer], server: threading.Event, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        experiment, run = make_run(tmp_path)
        monkeypatch.setattr(pipeline.training.control, "CONTROL_SECONDS", 0.0)  # asked at every step
        exists, asked = Path.exists, threading.Event()

        def hang(path: Path) -> bool:
            if path == stop_request(run):
                asked.set()
                server.wait()
            return exists(path)

        monkeypatch.setattr(Path, "exists", hang)
        patience = threading.Timer(WAIT_S, server.set)
        patience.start()
        train(experiment, run)
        patience.cancel()
        assert asked.is_set()
        assert not server.is_set(), "the training waited for its server"

    def test_takes_a_second_signal_where_the_first_cannot_be_handed_on(
        self,
        tmp_path: Path,
        trainer: type[Trainer],
        waits: Waits,
        server: threading.Event,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        experiment, run = make_run(tmp_path)
        touch = Path.touch

        def hang(path: Path) -> None:
            server.wait()
            touch(path)

        def work(_recipe: dict[str, Any]) -> None:
            waits.until("the first steps of 1 worker")
            os.kill(os.getpid(), signal.SIGINT)
            waits.until(
                re.escape(
                    f"{stop_request(run)} to be writable (its storage does not answer); the same signal again ends"
                )
            )
            os.kill(os.getpid(), signal.SIGINT)
            server.wait()

        monkeypatch.setattr(Path, "touch", hang)
        trainer.works = staticmethod(work)
        with pytest.raises(KeyboardInterrupt):
            train(experiment, run)
        assert not server.is_set()

    def test_tells_what_it_waits_for_before_it_begins_and_can_be_interrupted(
        self, tmp_path: Path, trainer: type[Trainer], server: threading.Event, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        experiment, run = make_run(tmp_path)
        monkeypatch.setattr(beside, "FIRST_WORDS_SECONDS", 0.01)
        told: list[str] = []

        def tell(words: str, *arguments: object) -> None:
            told.append(words % arguments)
            os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(beside.logger, "warning", tell)
        monkeypatch.setattr(pipeline.distributed.train, "make_training", lambda *_: server.wait())
        with pytest.raises(KeyboardInterrupt):
            train(experiment, run)
        assert told == [
            f"Reading what {run.root} is to be trained on is still under way after 0.01 s; its storage may be away."
        ]


HANGING_JOB = """
import ctypes
from pipeline import command_line
from pipeline.distributed import train

mutex, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None)

def hang(*_):
    libc.pthread_mutex_lock(mutex)
    print("hangs", flush=True)
    libc.pthread_mutex_lock(mutex)

train.make_training = hang
command_line.job(train.train, "")
"""


HANGING_HDF5 = """
import io, threading
import h5py
from pipeline import command_line
from pipeline.beside import Beside
from pipeline.distributed import train

with h5py.File(whole := io.BytesIO(), "w") as file:
    file["x"] = 1

class Dead(io.BytesIO):
    def readinto(self, buffer):
        print("hangs", flush=True)
        threading.Event().wait()

def main(*_):
    Beside().do(lambda: h5py.File(Dead(whole.getvalue()), "r"), "Looking at data sets")

command_line.job(main, "")
"""
"""A thread that has the lock of h5py for ever, which Python's own ending waits for."""


@pytest.mark.parametrize("script", [HANGING_JOB, HANGING_HDF5], ids=["mutex", "HDF5"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_job_ends_when_it_is_told_to_although_no_signal_ends_what_it_waits_for(
    tmp_path: Path, number: signal.Signals, status: int, script: str
) -> None:
    """A mutex that its own thread holds stands for the server: waiting for it ends with the process alone."""
    command = [sys.executable, "-c", script, "--runs", str(tmp_path)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as job:
        try:
            assert job.stdout is not None
            assert job.stdout.readline() == "hangs\n"
            job.send_signal(number)
            _, errors = job.communicate(timeout=WAIT_S)
        finally:
            job.kill()
    assert job.returncode == status
    assert "Stopped; what is done is kept. Go on with: python" in errors
    assert "Traceback" not in errors
