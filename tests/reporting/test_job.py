import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import RunFolderError
from tests.conftest import REPOSITORY
from tests.reporting.made_run import MadeRun

SCRIPT = REPOSITORY / "jobs" / "report.py"


@pytest.fixture
def job() -> Callable[[list[str]], None]:
    """The job's main function, in this process: starting one costs four seconds."""
    spec = importlib.util.spec_from_file_location("report_job", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_the_job_reports_a_run_by_name_and_leaves_its_configuration_alone(
    made_run: MadeRun,
    job: Callable[[list[str]], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(made_run.folder.root.parent.parent)
    before = made_run.folder.config.read_bytes()
    job(["--name", "made"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[5].split()[:3] == ["Trajectory", "Transformer", "190.0"]
    assert lines[-1].split() == ["report", str(made_run.folder.report)]
    assert made_run.folder.report.is_file()
    assert made_run.folder.config.read_bytes() == before


def test_the_job_takes_the_runs_own_configuration(
    made_run: MadeRun, job: Callable[[list[str]], None], tmp_path: Path
) -> None:
    job(["--config", str(made_run.folder.config), "--runs", str(tmp_path / "runs")])
    assert made_run.folder.report.is_file()


@pytest.fixture
def second_seed(made_run: MadeRun) -> Path:
    """The folder of another training of the same setting, elsewhere."""
    folder = made_run.folder.root.parent.parent / "elsewhere" / "second"
    shutil.copytree(made_run.folder.root, folder)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("\nseed: 0\n", "\nseed: 1\n"))
    return folder


def test_the_job_compares_runs_by_name_and_by_path(
    made_run: MadeRun,
    second_seed: Path,
    job: Callable[[list[str]], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(made_run.folder.root.parent.parent)
    job(["--compare", "made", str(second_seed)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| Pendulum-v1 | own/pendulum/mixed-v0 | return | 2 ")
    assert lines[-1] == f"report    {made_run.folder.root.parent / 'comparison'}.html, .tex and .md"
    assert (made_run.folder.root.parent / "comparison.tex").is_file()


def test_a_comparison_goes_beside_the_first_run_or_where_it_is_told_to(
    made_run: MadeRun,
    second_seed: Path,
    job: Callable[[list[str]], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = str(made_run.folder.root.parent)
    job(["--compare", str(second_seed), "made", "--runs", runs])
    assert (second_seed.parent / "comparison.md").is_file()
    job(["--runs", runs, "--compare=made", "--output", str(tmp_path / "table")])
    assert {path.name for path in tmp_path.glob("table.*")} == {"table.md", "table.tex", "table.html"}
    assert not (made_run.folder.root.parent / "comparison.md").exists()


@pytest.mark.parametrize("arguments", [[], ["--runs", "somewhere"], ["--name", "made", "--compare", "made"]])
def test_the_job_without_a_run_or_with_two_kinds_says_what_it_needs(
    job: Callable[[list[str]], None], capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        job(arguments)
    assert "expected --config or --name of the run to report on, or --compare with" in capsys.readouterr().err


def test_the_job_refuses_an_unknown_option_beside_compare(
    job: Callable[[list[str]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        job(["--compare", "made", "--format", "pdf"])
    assert "unrecognized arguments: --format pdf" in capsys.readouterr().err


def test_the_job_refuses_a_run_that_is_not_there(
    job: Callable[[list[str]], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunFolderError, match="nothing is not there; expected the folder of a run"):
        job(["--name", "nothing"])
    assert list(tmp_path.iterdir()) == []


def test_the_script_explains_itself(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--help"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, cwd=tmp_path)
    assert "python jobs/report.py --compare quickstart reacher" in run.stdout
