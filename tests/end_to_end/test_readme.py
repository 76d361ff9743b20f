"""The README's commands: those on the quickstart are run, shrunk; of all others the jobs parse the options.

`make` is asked what it would do. `ray` and `pip` are not called here: tests/test_cluster_yaml.py and test_cluster.py
check what they are given.
"""

import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.benchmarks.options import BENCHMARKS
from pipeline.command_line import parse_experiment
from pipeline.options import parse
from tests.conftest import REPOSITORY
from tests.end_to_end.conftest import environment_without_ray

IN_ONE_PROCESS = """
import json, runpy, sys
for words in json.loads(sys.argv[1]):
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
    print("--- done:", *words)
"""

TINY = Path(__file__).with_name("tiny.yaml")
README = (REPOSITORY / "README.md").read_text()


def commands() -> list[str]:
    """The commands of the README's blocks, one a line."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def job_commands() -> list[str]:
    """All calls of a job, those within a line and those that are submitted to a cluster too."""
    inline = [text.replace("\n", " ") for text in re.findall(r"`(python jobs/[^`]+)`", README)]
    return [line[line.index("python jobs/") :] for line in commands() + inline if "python jobs/" in line]


def runnable() -> list[str]:
    """The jobs that need no download, no GPU and no cluster of their own."""
    return [line for line in commands() if line.startswith("python jobs/") and "configs/quickstart.yaml" in line]


def test_the_readme_shows_commands() -> None:
    assert len(runnable()) >= 5
    assert len(job_commands()) > len(runnable()) + 3


@pytest.mark.parametrize("target", ["quickstart", "test", "test-all"])
def test_the_commands_of_the_first_screen_are_targets_of_make(target: str) -> None:
    assert f"make {target}" in README
    run = subprocess.run(
        ["make", "--dry-run", target], cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=True
    )
    expected = {
        "quickstart": "jobs/run.py --config configs/quickstart.yaml",
        "test": '-m "not slow and not cluster"',
        "test-all": "-m pytest",
    }[target]
    assert expected in run.stdout
    assert ("not slow" in run.stdout) is (target == "test")


@pytest.mark.parametrize("line", job_commands())
def test_a_job_takes_the_options_that_the_readme_gives_it(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    _, script, *arguments = shlex.split(line)
    job = runpy.run_path(script)
    if script == "jobs/report.py":
        monkeypatch.setattr("pipeline.reporting.report.report", lambda *_: None)
        monkeypatch.setattr("pipeline.reporting.markup.write_comparison", lambda *_: "")
        job["main"](arguments)
    elif script == "jobs/benchmark.py":
        name, *options = arguments
        parse(BENCHMARKS[name](), "", options)
    else:
        parse_experiment("", arguments)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_commands_run_in_the_order_in_which_they_stand(
    cluster: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """All in one process, which saves their imports; what each job imports alone is in tests/test_start_up.py."""
    added = ["--config", str(TINY), "--runs", str(tmp_path_factory.mktemp("runs"))]
    lines = [[*shlex.split(line)[1:], *added] for line in runnable()]
    run = subprocess.run(
        [sys.executable, "-c", IN_ONE_PROCESS, json.dumps(lines)],
        cwd=REPOSITORY,
        env=cluster,
        capture_output=True,
        text=True,
        timeout=560,
        check=False,
    )
    assert run.returncode == 0, f"{run.stdout[-3000:]}\n{run.stderr[-5000:]}"
    assert run.stdout.count("--- done: ") == len(lines)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_whole_way_runs_where_there_is_no_cluster(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "jobs/run.py", "--config", "configs/quickstart.yaml", "--config", TINY, "--runs", tmp_path],
        cwd=REPOSITORY,
        env=environment_without_ray(),
        capture_output=True,
        text=True,
        timeout=560,
        check=False,
    )
    assert run.returncode == 0, f"{run.stdout[-3000:]}\n{run.stderr[-5000:]}"
    assert (tmp_path / "quickstart" / "summary.json").is_file()
    assert (tmp_path / "quickstart" / "report.html").is_file()
