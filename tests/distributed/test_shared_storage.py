import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.distributed import shared_storage
from pipeline.distributed.shared_storage import require_shared
from pipeline.errors import ClusterError, StorageError
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.ray


@pytest.mark.parametrize("runs", ["runs", "s3://bucket/runs"])
def test_results_that_would_be_gone_with_a_submitted_job_are_refused(runs: str) -> None:
    with pytest.raises(ClusterError, match=rf"runs is '{runs}'; expected the absolute path of a folder on storage"):
        require_shared(runs)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"runs is '.*file/runs'; expected a folder that can be written"):
        require_shared(f"{tmp_path}/file/runs")


def test_nodes_that_do_not_see_what_the_driver_wrote_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_storage, "nodes_without", lambda path: ["10.0.0.7"] if path.is_file() else [])
    with pytest.raises(ClusterError, match=r"share, but 10\.0\.0\.7 did not see a file that this job wrote there"):
        require_shared(str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_cluster_of_one_node_needs_nobody_else_to_see_it(ray_session: None, tmp_path: Path) -> None:
    require_shared(str(tmp_path / "runs"))
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.cluster
@pytest.mark.slow
def test_a_job_that_joins_a_cluster_asks_the_other_nodes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.distributed.seen_by_nodes", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["blind"] == {"there": 0, "not there": 1}
    assert told["left"] == []
    assert "runs is 'runs'; expected the absolute path" in told["relative"]
