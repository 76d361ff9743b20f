import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.collection.config import CollectConfig
from pipeline.distributed.collect import CollectorActor
from pipeline.distributed.datasource import EpisodeDatasource, EpisodeRange
from pipeline.distributed.pool import RolloutActor
from pipeline.distributed.shared_storage import PROBE, require_shared, shared
from pipeline.distributed.stream import StreamSettings, _read_chunk
from pipeline.distributed.train_worker import train_worker
from pipeline.distributed.trials import SettingTrial
from pipeline.environments import EnvironmentConfig
from pipeline.errors import ClusterError, StorageError
from tests.conftest import REPOSITORY


@pytest.mark.parametrize("runs", ["runs", "s3://bucket/runs"])
def test_results_that_would_be_gone_with_a_submitted_job_are_refused(runs: str) -> None:
    told = pytest.raises(ClusterError, match=rf"runs is '{runs}'; expected the absolute path of a folder on storage")
    with told, shared(runs):
        pass


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told = pytest.raises(StorageError, match=r"runs is '.*file/runs'; expected a folder that can be written")
    with told, shared(f"{tmp_path}/file/runs"):
        pass


def test_what_the_driver_leaves_is_seen_while_the_job_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with shared(str(tmp_path / "runs")) as variables:
        monkeypatch.setenv(PROBE, variables[PROBE])
        require_shared()
    assert not list((tmp_path / "runs").iterdir())
    with pytest.raises(StorageError, match=r"runs is '.*/runs'; expected storage .* but the node .* does not see a"):
        require_shared()


def test_a_process_of_ray_in_place_has_nothing_to_look_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PROBE, raising=False)
    looked: list[Path] = []
    monkeypatch.setattr(Path, "exists", lambda path: looked.append(path))
    require_shared()
    assert not looked


def collect() -> None:
    CollectorActor(EnvironmentConfig(), CollectConfig(), 0, Path()).ready()


def evaluate() -> None:
    RolloutActor(1).ready()


def sweep() -> None:
    SettingTrial.__new__(SettingTrial).setup({}, plan=None)


def prepare() -> None:
    (task,) = EpisodeDatasource([], [EpisodeRange(0, index=None)], reduce=None).get_read_tasks(1)
    (row,) = next(iter(task())).to_pylist()
    assert row["kind"] == "StorageError", "Ray Data would print a traceback"
    raise StorageError(row["error"])


def train() -> None:
    train_worker({})


def stream() -> None:
    nothing = StreamSettings(Path(), None, (), None, 1, 1, 0, 1, 1, 1.0)
    _read_chunk({"chunk": np.zeros(1, dtype=np.int64)}, [], nothing, slice(0), 0, 0)


@pytest.mark.parametrize("work", [collect, prepare, train, stream, evaluate, sweep])
def test_whoever_works_looks_before_it_does_anything(
    work: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PROBE, str(tmp_path / "not there"))
    with pytest.raises(StorageError, match="does not see a file that this job wrote there"):
        work()


@pytest.mark.ray
@pytest.mark.cluster
@pytest.mark.slow
def test_a_node_of_a_cluster_that_a_job_joins_knows_what_to_look_for(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.distributed.seen_by_nodes", str(tmp_path / "runs")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["there"] == ""
    assert "does not see a file that this job wrote there" in told["gone"]
    assert told["left"] == []
