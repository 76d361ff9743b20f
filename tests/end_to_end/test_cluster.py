"""The whole way on a cluster with token authentication, submitted as the README says."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.provenance import COMMIT
from pipeline.training.checkpoint import best_checkpoint, read_info
from tests.conftest import REPOSITORY
from tests.distributed.sessions import JOB

TINY = Path(__file__).with_name("tiny.yaml")

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.mark.timeout(600)
def test_the_whole_way_runs_as_a_submitted_job(cluster: dict[str, str], tmp_path: Path) -> None:
    runtime_env = json.dumps({"env_vars": {COMMIT: "0123456-dirty"}})
    command = (
        f"ray job submit --address {cluster['DASHBOARD']} --working-dir {REPOSITORY} "
        f"--runtime-env-json '{runtime_env}' -- "
        f"python jobs/run.py --config configs/quickstart.yaml --config {TINY} --runs {tmp_path}"
    )
    run = subprocess.run(
        shlex.split(command), env=cluster, cwd=REPOSITORY, capture_output=True, text=True, timeout=560, check=False
    )
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-5000:]
    summary = json.loads((tmp_path / "quickstart" / "summary.json").read_text())
    assert summary["data"]["episodes"] > 0
    assert set(summary["methods"]) == {"random", "one_step", "trajectory_transformer"}
    for row in summary["methods"].values():
        assert row["episodes"] == 2
        assert row["interval"][0] <= row["mean_return"] <= row["interval"][1]
    assert (tmp_path / "quickstart" / "report.html").stat().st_size > 10_000
    info = read_info(best_checkpoint(tmp_path / "quickstart" / "checkpoints"))
    assert info.trained_on is not None
    assert info.trained_on["commit"] == "0123456-dirty, by the job's submission"
    assert not list(tmp_path.glob(".probe*"))


def test_a_job_without_the_token_is_turned_away(cluster: dict[str, str]) -> None:
    stranger = cluster | {"RAY_AUTH_TOKEN": "0" * 64}
    command = f"ray job submit --address {cluster['DASHBOARD']} -- python --version"
    run = subprocess.run(command.split(), env=stranger, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode != 0
    assert "authentication" in (run.stdout + run.stderr).lower()


@pytest.mark.parametrize("token", ["0" * 64, None])
def test_a_driver_without_the_token_is_told_so(cluster: dict[str, str], token: str | None) -> None:
    stranger = {**cluster, "RAY_AUTH_TOKEN": token} if token else {**cluster}
    if token is None:
        del stranger["RAY_AUTH_TOKEN"]
    run = subprocess.run(
        [sys.executable, "-c", JOB],
        env=stranger,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 2, run.stderr
    assert f"error: RAY_ADDRESS is {cluster['RAY_ADDRESS']!r}; expected a running Ray cluster" in run.stderr
    assert "give the token in RAY_AUTH_TOKEN" in run.stderr
    assert "Traceback" not in run.stderr
