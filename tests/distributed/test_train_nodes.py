"""Training on a cluster whose nodes go and come: killed, drained, added. The job joins it as a user's would."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from pipeline.experiment import Experiment
from pipeline.run_folder import RunFolder
from pipeline.training.checkpoint import last_checkpoint, read_info
from pipeline.training.metrics import read_metrics
from tests.conftest import REPOSITORY
from tests.distributed.processes import descendants, start_job, wait_for
from tests.distributed.training_runs import make_run, uninterrupted, without_dropout
from tests.training.tasks import curve

pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

NO_CHECKPOINT_OF_ITSELF = 1e6
"""Minutes: what is saved then was saved because of a notice."""

SOON_DEAD = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 2,
    "health_check_timeout_ms": 10_000,
}
"""A killed node, which refuses to answer, is taken for dead after 1 s instead of 15; one that is only slow is not."""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head without CPUs, so that no worker comes to lie on it; jobs that are started join it."""
    # The tests' own environment is that of a Ray in place.
    monkeypatch.delenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER")
    arguments = {"num_cpus": 0, "include_dashboard": False, "_system_config": SOON_DEAD}
    cluster = Cluster(initialize_head=True, head_node_args=arguments)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster
    cluster.shutdown()


class Job:
    """A training that runs as a job of its own.

    Args:
        cluster: Its nodes.
        folder: Where its configuration and its log go.
        experiment: What is trained.
        run: Its folder.
    """

    def __init__(self, cluster: Cluster, folder: Path, experiment: Experiment, run: RunFolder) -> None:
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(experiment.model_dump(mode="json")))
        self._cluster, self._run, self._log = cluster, run, folder / "log"
        self._process = start_job("train", "--config", str(config), log=self._log)

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(10)

    def saved(self) -> int:
        """Step of the newest checkpoint."""
        folder = last_checkpoint(self._run.checkpoints)
        return read_info(folder).step if folder else 0

    def newest(self) -> dict[str, Any]:
        """The newest line of its metrics; one from long ago where there is none."""
        return [{"step": 0, "time": 0.0}, *read_metrics(self._run.metrics)][-1]

    def goes_on(self) -> None:
        """Waits until new checkpoints come."""
        before = self.saved()
        self.wait_for(lambda: self.saved() > before + 30, f"the training goes on from step {before}")

    def trains_on(self) -> None:
        """Waits until a worker that is there has taken the run, and reports steps."""
        self.wait_for(self._is_taken, "a worker on a node that is there takes the run")
        since = time.time()
        self.wait_for(lambda: self.newest()["time"] > since, "steps of it")

    def _is_taken(self) -> bool:
        token = self._run.checkpoints / ".writer"
        writer = re.search(r"process (\d+)", token.read_text()) if token.exists() else None
        return writer is not None and int(writer[1]) in {pid for node in self.nodes() for pid in workers_of(node)}

    def leaves_a_checkpoint(self, who: str) -> None:
        """Waits for the checkpoint of a notice, which comes within 30 s and after everything that is reported."""
        before = self.saved()
        self.wait_for(lambda: self.saved() > before, f"the checkpoint of {who} that was told to end", seconds=30)
        assert self.newest()["step"] <= self.saved()

    def wait_for(self, condition: Any, what: str, seconds: float = 90) -> None:
        wait_for(lambda: self._process.poll() is not None or condition(), what, self._log, seconds)
        assert self._process.poll() is None or condition(), f"the job ended before {what}:\n{self._log.read_text()}"

    def stops(self) -> int:
        """Ends it in order and returns the step it came to."""
        self._process.terminate()
        assert self._process.wait(60) == 128 + signal.SIGTERM, self._log.read_text()
        return self.saved()

    def nodes(self) -> list[Any]:
        """Returns the nodes that workers run on."""
        return [node for node in self._cluster.worker_nodes if workers_of(node)]


def workers_of(node: Any) -> list[int]:
    return descendants(node.all_processes["raylet"][0].process.pid, "ray::RayTrainWorker")


def test_a_training_moves_from_node_to_node_and_nothing_of_it_is_lost(cluster: Cluster, tmp_path: Path) -> None:
    """SIGTERM of the worker, the drain of its node, the death of the next one with no other there, and another comes.

    The only checkpoints are those of the notices, as on a spot machine: the dead node costs what came after the last.
    """
    experiment, run = make_run(
        tmp_path, epochs=1, epoch_windows=16 * 10**6, checkpoint_minutes=NO_CHECKPOINT_OF_ITSELF, log_steps=20
    )
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    with Job(cluster, tmp_path, experiment, run) as job:
        job.trains_on()
        (worker,) = workers_of(job.nodes()[0])
        os.kill(worker, signal.SIGTERM)
        job.leaves_a_checkpoint("the worker")
        job.trains_on()
        node, deadline_ms = job.nodes()[0], int((time.time() + 30) * 1000)
        notice = (node.node_id, DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION, "the spot price rose", deadline_ms)
        assert GcsClient(address=cluster.address).drain_node(*notice) == (True, "")
        job.leaves_a_checkpoint("the node")
        job.wait_for(lambda: not {node}.issuperset(job.nodes()), "a worker on the other node")
        job.trains_on()
        kept = job.saved()
        cluster.remove_node(job.nodes()[0], allow_graceful=False)
        cluster.add_node(num_cpus=1)
        job.trains_on()
        assert job.saved() == kept
        last = job.stops()
    assert last > kept
    assert curve(run.metrics) == uninterrupted(experiment, run, tmp_path / "straight", until=last)


def test_elastic_training_shrinks_with_the_cluster_and_grows_again(cluster: Cluster, tmp_path: Path) -> None:
    experiment, run = make_run(
        tmp_path,
        workers={"number": [1, 2], "resize_interval_s": 1.0},
        epoch_windows=512 * 100_000,
        batch_size=512,
        learning_rate=1e-4,
        checkpoint_minutes=0.005,
    )
    experiment = without_dropout(experiment)

    def trained_by(sizes: list[int]) -> bool:
        lines = [line["workers"] for line in read_metrics(run.metrics)]
        return [size for size, before in zip(lines, [0, *lines], strict=False) if size != before] == sizes

    command = [sys.executable, "-m", "tests.distributed.quick_coordinator", cluster.address]
    subprocess.run(command, cwd=REPOSITORY, check=True, timeout=120)
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    with Job(cluster, tmp_path, experiment, run) as job:
        job.wait_for(lambda: trained_by([2]), "two workers train")
        job.goes_on()
        cluster.remove_node(job.nodes()[0], allow_graceful=False)
        job.wait_for(lambda: trained_by([2, 1]), "one worker goes on")
        job.goes_on()
        cluster.add_node(num_cpus=1)
        job.wait_for(lambda: trained_by([2, 1, 2]), "two workers go on")
        job.goes_on()
        last = job.stops()
    lines = read_metrics(run.metrics)
    expected = uninterrupted(experiment, run, tmp_path / "straight", until=last)
    assert [line["step"] for line in lines] == [line["step"] for line in expected]
    for name in ("loss", "gradient_norm", "learning_rate"):
        assert [line[name] for line in lines] == pytest.approx([line[name] for line in expected], rel=1e-4), name
