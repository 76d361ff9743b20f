"""What a job imports before it knows that it has something to do; seconds are measured by nobody here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

JOBS = sorted(path.stem for path in (REPOSITORY / "jobs").glob("*.py"))

HEAVY = {"ray", "torch", "pandas", "scipy", "matplotlib", "minari", "numba", "pyarrow", "mujoco", "optuna"}
"""Packages that take a tenth of a second to five seconds to import."""

RUN = """
import contextlib, io, json, runpy, sys
job, *cases = json.loads(sys.argv[1])
for case in cases:
    sys.argv = [job, *case]
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(job, run_name="__main__")
        except SystemExit as end:
            status = end.code or 0
    packages = sorted({name.partition(".")[0] for name in sys.modules})
    print(json.dumps([status, out.getvalue(), err.getvalue(), packages]))
"""


def run(job: str, *cases: list[str]) -> list[tuple[int, str, str, set[str]]]:
    """Runs a job once for each case in one process; returns status, output, errors, and packages imported."""
    words = [sys.executable, "-c", RUN, json.dumps([f"jobs/{job}.py", *cases])]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return [(status, out, err, set(packages)) for status, out, err, packages in answers]


@pytest.mark.parametrize("job", JOBS)
def test_help_a_wrong_option_and_a_missing_file_are_answered_before_anything_heavy_is_imported(job: str) -> None:
    first = ["planner"] if job == "benchmark" else []
    wrong = [*first, "--hepl", "1"] if job != "report" else ["--name", "x", "--hepl", "1"]
    told, refused, absent = run(job, [*first, "--help"], wrong, [*first, "--config", "absent.yaml"])
    assert (told[0], refused[0], absent[0]) == (0, 2, 2)
    assert f"jobs/{job}.py" in told[1]
    assert "hepl is not a setting" in refused[2]
    assert "absent.yaml'; expected a YAML file that exists" in absent[2]
    assert not HEAVY & absent[3]


def test_the_heavy_packages_are_those_that_the_jobs_import_later() -> None:
    """A name that is misspelt above would be absent everywhere."""
    names = ", ".join(HEAVY)
    done = subprocess.run([sys.executable, "-c", f"import {names}"], capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_the_whole_way_does_not_begin_without_a_configuration(tmp_path: Path) -> None:
    ((status, _, err, packages),) = run("run", ["--name", "mine", "--runs", str(tmp_path)])
    assert status == 2
    assert err.startswith("error: no --config is given; expected one, because")
    assert "--config configs/quickstart.yaml\n      Two cores, two minutes" in err
    assert "ray" not in packages
    assert not list(tmp_path.iterdir())


def test_prepare_finds_all_that_it_imports_once_it_has_something_to_do() -> None:
    """The other jobs are started as processes of their own elsewhere; where others came before, nothing can miss."""
    lines = (REPOSITORY / "jobs" / "prepare.py").read_text().splitlines()
    code = "\n".join(line.strip() for line in lines if line.startswith("    from pipeline."))
    assert code
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
