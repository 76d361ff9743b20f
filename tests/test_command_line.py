import errno
import os
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.command_line import job
from pipeline.command_line import parse_experiment as parse
from pipeline.configuration import claim_folder
from pipeline.errors import RunFolderError
from pipeline.experiment import Experiment, stage_identity
from pipeline.run_folder import RunFolder
from tests.conftest import REPOSITORY


@pytest.fixture
def arguments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    given = ["jobs/some.py", "--runs", str(tmp_path), "--name", "mine"]
    monkeypatch.setattr(sys, "argv", given)
    return given


def test_a_job_writes_the_effective_configuration(arguments: list[str], tmp_path: Path) -> None:
    arguments += ["--planning.horizon", "3"]
    job(lambda experiment, run: None, "")
    assert parse("", ["--config", str(tmp_path / "mine" / "config.yaml")]).planning.horizon == 3


def test_settings_that_a_job_does_not_use_do_not_replace_those_that_made_the_results(
    arguments: list[str], tmp_path: Path
) -> None:
    def evaluate(experiment: Experiment, run: RunFolder) -> None:
        identity = {"acting": experiment.planning.identity(), "environment": experiment.environment.identity()}
        claim_folder(run.episodes("trajectory_transformer"), {"seed": 0, **identity}, "episodes")

    def train(experiment: Experiment, run: RunFolder) -> None:
        claim_folder(run.checkpoints, {**stage_identity(experiment, "train"), "shards": "abc"}, "checkpoints")

    config, given = tmp_path / "mine" / "config.yaml", list(sys.argv)
    arguments += ["--trajectory_transformer.width", "64", "--seed", "3"]
    job(train, "")
    arguments[:] = [*given, "--trajectory_transformer.width", "32", "--planning.beam_width", "16"]
    job(evaluate, "")
    arguments[:] = [*given, "--planning.beam_width", "64", "--training.keep_best", "2", "--workers.number", "2"]
    job(lambda experiment, run: None, "")
    written = parse("", ["--config", str(config)])
    assert (written.seed, written.trajectory_transformer.width, written.planning.beam_width) == (3, 64, 16)
    assert (written.training.keep_best, written.workers.number) == (2, 2), "they change how it runs, not what it gave"


def test_a_setting_of_an_older_version_is_left_out_of_the_configuration(arguments: list[str], tmp_path: Path) -> None:
    claim_folder(tmp_path / "mine" / "shards", {"data": {"num_bins": 50, "sample_steps": 9}}, "shards")
    job(lambda experiment, run: None, "")
    assert parse("", ["--config", str(tmp_path / "mine" / "config.yaml")]).data.num_bins == 50


def test_a_job_that_a_user_made_fail_says_why_and_keeps_the_old_configuration(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(experiment: Experiment, run: RunFolder) -> None:
        raise RunFolderError("runs/mine holds shards of another configuration")

    job(lambda experiment, run: None, "")
    arguments += ["--seed", "9"]
    with pytest.raises(SystemExit, match="2"):
        job(refuse, "")
    assert capsys.readouterr().err == "error: runs/mine holds shards of another configuration\n"
    assert parse("", ["--config", str(tmp_path / "mine" / "config.yaml")]).seed == 0


def test_a_job_that_refuses_a_new_name_leaves_no_folder_behind(arguments: list[str], tmp_path: Path) -> None:
    def refuse(experiment: Experiment, run: RunFolder) -> None:
        raise RunFolderError("there is no such run")

    with pytest.raises(SystemExit, match="2"):
        job(refuse, "")
    assert list(tmp_path.iterdir()) == []


def test_a_job_that_fails_half_way_keeps_what_it_made(arguments: list[str], tmp_path: Path) -> None:
    def fail(experiment: Experiment, run: RunFolder) -> None:
        (run.root / "shards").mkdir()
        raise RunFolderError("no room")

    with pytest.raises(SystemExit, match="2"):
        job(fail, "")
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"config.yaml", "shards"}


def test_an_interrupted_job_tells_how_to_go_on(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(experiment: Experiment, run: RunFolder) -> None:
        raise KeyboardInterrupt

    arguments += ["--data.sources", "[{id: my/hopper-v0, root: it's here}]"]
    with pytest.raises(SystemExit, match="130"):
        job(interrupt, "")
    command = capsys.readouterr().err.partition("Go on with: ")[2]
    assert shlex.split(command) == ["python", *arguments], "it cannot be pasted"


def test_sigterm_ends_a_job_as_an_interruption(tmp_path: Path) -> None:
    code = (
        "import os, signal, time\n"
        "from pipeline.command_line import job\n"
        "def main(experiment, run):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60)\n"
        "job(main, '')\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, "--runs", str(tmp_path)], capture_output=True, text=True, timeout=50, check=False
    )
    assert run.returncode == 143
    assert "what is done is kept" in run.stderr


def collect(runs: Path, room: int = -1) -> subprocess.CompletedProcess[str]:
    """Runs a job that can write files of `room` bytes at most."""
    return subprocess.run(
        [sys.executable, "jobs/collect.py", "--runs", str(runs)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY)),
    )


def test_runs_that_cannot_be_written_are_told_in_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = collect(tmp_path / "file" / "runs")
    assert done.returncode == 2
    assert done.stderr.startswith("error: the file system refused: [Errno 20] Not a directory: ")
    assert "Give another --runs" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_disk_without_room_is_told_in_one_message(tmp_path: Path) -> None:
    done = collect(tmp_path / "runs", room=100)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the file system refused: [Errno 27] File too large; expected places that can")
    assert "Traceback" not in done.stderr


def test_an_error_of_the_system_that_no_user_can_put_right_keeps_its_traceback(arguments: list[str]) -> None:
    def fail(experiment: Experiment, run: RunFolder) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with pytest.raises(OSError, match="Too many open files"):
        job(fail, "")


PRINTS = r"""
from pipeline.command_line import plain_endings
with plain_endings():
    from pipeline.progress import Progress
    with Progress("collect") as progress:
        progress.finish("10 steps \u00b7 5.1 \u00b1 3.4")
    from pipeline.reporting.table import NOTHING
    print(NOTHING)
"""


@pytest.mark.parametrize(
    ("variables", "separator", "deviation"),
    [
        ({"PYTHONIOENCODING": "ascii"}, b"?", b"?"),
        ({"PYTHONIOENCODING": "latin-1"}, b"\xb7", b"\xb1"),
        ({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, b"?", b"?"),
        ({"PYTHONIOENCODING": "utf-8"}, "·".encode(), "±".encode()),
    ],
)
def test_a_log_gets_question_marks_for_what_its_encoding_lacks(
    variables: dict[str, str], separator: bytes, deviation: bytes
) -> None:
    run = subprocess.run(
        [sys.executable, "-c", PRINTS], env=os.environ | variables, capture_output=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    line, nothing = run.stdout.splitlines()
    assert line == b"collect   10 steps " + separator + b" 5.1 " + deviation + b" 3.4 (0 s)"
    assert nothing == ("–".encode() if variables.get("PYTHONIOENCODING") == "utf-8" else b"?")  # noqa: RUF001
