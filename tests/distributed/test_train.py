import os
import re
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
import yaml
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError

import pipeline.data.shards
import pipeline.distributed.train
import pipeline.methods.training
from pipeline.configuration import claim_folder
from pipeline.data.config import DataConfig
from pipeline.data.table import EpisodeTable
from pipeline.distributed import train_worker
from pipeline.distributed.train import plan, train
from pipeline.distributed.train_endings import explained
from pipeline.distributed.train_worker import make_training
from pipeline.distributed.worker_resources import WorkerResources
from pipeline.errors import CheckpointError, ClusterError, ManifestError, RunFolderError, StorageError
from pipeline.exclusive import exclusive
from pipeline.experiment import Experiment
from pipeline.methods.checkpoint import load_checkpoint
from pipeline.progress import Progress
from pipeline.run_folder import RunFolder
from pipeline.training.checkpoint import last_checkpoint, list_checkpoints, read_info
from pipeline.training.metrics import read_metrics
from tests.data.in_memory import write_shards
from tests.distributed.processes import descendants, start_job, wait_for
from tests.distributed.training_runs import make_run, trained_without_ray, uninterrupted, without_dropout
from tests.training.tasks import curve, make_episodes

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def trained_by_two(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, RunFolder]:
    """A training by two workers, without dropout, that has finished; tests leave it as it is."""
    experiment, run = make_run(tmp_path_factory.mktemp("two"), workers={"number": 2, "cpus": 0.5})
    experiment = without_dropout(experiment)
    train(experiment, run)
    return experiment, run


def contents(folder: Path) -> dict[Path, bytes]:
    """The bytes of all files below a folder but the one that says who may write."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".writer"}


def fails_on_the_second_worker(recipe: dict[str, Any]) -> None:
    """Trains, but the second worker does not find its node's shards as they should be."""

    def read_table(*of: Any, **which: Any) -> EpisodeTable:
        if ray.train.get_context().get_world_rank() == 1:
            with (Path(recipe["root"]) / "attempts").open("a") as file:
                file.write("one\n")
            raise ManifestError("shard-00000.parquet is damaged")
        return pipeline.data.shards.read_table(*of, **which)

    pipeline.methods.training.read_table = read_table
    train_worker.train_worker(recipe)


@pytest.mark.usefixtures("ray_session")
class TestTraining:
    @pytest.mark.slow
    def test_a_finished_training_does_nothing_when_called_again(
        self, trained_by_two: tuple[Experiment, RunFolder], capsys: Any
    ) -> None:
        experiment, run = trained_by_two
        files = contents(run.root)
        capsys.readouterr()
        train(experiment, run)
        assert contents(run.root) == files
        assert "nothing to do: 2 epochs" in capsys.readouterr().out
        loaded = load_checkpoint(list_checkpoints(run.checkpoints)[-1])
        assert loaded.config == experiment.model_dump(mode="json")

    def test_workers_that_do_not_fit_are_refused_at_once(self, tmp_path: Path) -> None:
        experiment, run = make_run(tmp_path, workers={"cpus": 64})
        with pytest.raises(ClusterError, match=r"needs 64 CPUs, but this machine has \d+; .*workers\.cpus"):
            train(experiment, run)

    @pytest.mark.slow
    def test_workers_that_the_cluster_never_places_are_given_up(
        self, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A cluster may grow, so its size is no reason to refuse; this one stays as it is."""
        monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
        monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "0.5")
        monkeypatch.setattr(pipeline.distributed.train, "QUIET_SECONDS", 0.0)
        experiment, run = make_run(tmp_path, workers={"cpus": 64, "start_timeout_s": 1.5})
        told = r"no room for 1 worker of 64 CPUs, 0 GPUs within workers\.start_timeout_s, 1.5 s; .*"
        with pytest.raises(ClusterError, match=told + r"The cluster has 1 node with 2 CPUs and 0 GPUs, of which 2"):
            train(experiment, run)
        output = capsys.readouterr()
        assert "waiting for the first steps of 1 worker of 64 CPUs, 0 GPUs" in output.out
        # Ray's own tracebacks, of each attempt and of our callback.
        assert not re.search("Error in control loop|Exception raised in callback", output.out + output.err)
        assert not [thread for thread in threading.enumerate() if thread.name == "fit"]
        assert not (run.root / "ray").exists()

    @pytest.mark.slow
    def test_ctrl_c_ends_a_training_that_waits_for_its_workers(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
        monkeypatch.setattr(pipeline.distributed.train, "QUIET_SECONDS", 0.0)
        waits: list[str] = []

        def wait(_progress: Progress, what: str) -> None:
            waits.append(what)
            if len(waits) == 12:  # 3 s: Ray Train waits for the workers by now
                os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(Progress, "wait", wait)
        experiment, run = make_run(tmp_path, workers={"cpus": 64, "number": (1, 2)})
        with pytest.raises(KeyboardInterrupt):
            train(experiment, run)
        assert waits[0].startswith("the first steps of 1")
        assert waits[-1] == "the workers to write a checkpoint and end; the same signal again ends at once"
        assert not [thread for thread in threading.enumerate() if thread.name == "fit"]

    @pytest.mark.slow
    def test_two_workers_learn_the_same_as_one(
        self, trained_by_two: tuple[Experiment, RunFolder], tmp_path: Path
    ) -> None:
        """Without dropout the same global batches give the same sums, added up in another order."""
        experiment, run = trained_by_two
        expected = uninterrupted(experiment, run, tmp_path / "straight")
        lines = read_metrics(run.metrics)
        assert [line["step"] for line in lines] == [line["step"] for line in expected]
        assert {line["workers"] for line in lines} == {2}
        for name in ("loss", "loss_action", "gradient_norm", "accuracy_observation", "learning_rate"):
            ours, theirs = [line[name] for line in lines], [line[name] for line in expected]
            # float32 sums in another order; the optimizer carries the difference on through 24 steps.
            assert ours == pytest.approx(theirs, rel=1e-4), name
        losses = [line["validation_loss"] for line in lines if line["kind"] == "epoch"]
        assert losses == pytest.approx([line["validation_loss"] for line in expected if line["kind"] == "epoch"], 1e-4)

    @pytest.mark.slow
    def test_a_streamed_training_finishes(self, tmp_path: Path, capsys: Any) -> None:
        experiment, run = make_run(tmp_path, workers={"cpus": None}, resident_gib=1e-9)
        train(experiment, run)
        assert "streamed through Ray Data, above training.resident_gib" in capsys.readouterr().out
        lines = read_metrics(run.metrics)
        assert (lines[-1]["kind"], lines[-1]["epoch"]) == ("epoch", experiment.training.epochs)
        assert lines[-1]["validation_loss"] is not None

    @pytest.mark.slow
    def test_an_error_of_another_worker_than_the_first_ends_the_training(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
    ) -> None:
        """Worker 0 waits for it in a collective; Ray Train is not to try it again."""
        experiment, run = make_run(tmp_path, workers={"number": 2, "cpus": 0.5})
        monkeypatch.setattr(pipeline.distributed.train, "train_worker", fails_on_the_second_worker)
        with pytest.raises(ManifestError, match=r"^shard-00000\.parquet is damaged$"):
            train(experiment, run)
        assert len((run.root / "attempts").read_text().splitlines()) == 1
        output = capfd.readouterr()
        assert "is damaged" not in output.out + output.err  # raised here alone, no worker's traceback


class TestLostWorkers:
    def test_lost_workers_are_told_in_words(self) -> None:
        lost = WorkerHealthCheckFailedError("no answer", RuntimeError("The actor died.\nA long story."))
        beside = RuntimeError("Connection closed by peer")
        failed = WorkerGroupError("a long story", {0: beside, 1: lost})
        error = explained(failed, WorkerResources(2, 1.0, 0.0), 3, Path("checkpoints/step-000000040"))
        assert isinstance(error, ClusterError)
        expected = "lost its workers 4 times; expected at most workers.max_failures, 3. The last time: The actor died. "
        assert expected + "Run the same command again: it continues from step-000000040." in str(error)

    def test_workers_that_hang_are_told_as_lost(self) -> None:
        hangs = WorkerHealthCheckTimeoutError("A worker health check has been hanging for 601.00 seconds.\nA story.")
        error = explained(WorkerGroupError("a long story", {0: hangs}), WorkerResources(2, 1.0, 0.0), 3, None)
        assert isinstance(error, ClusterError)
        assert "4 times; expected at most" in str(error)
        assert "The last time: A worker health check has been hanging for 601.00 seconds. Run the" in str(error)

    def test_a_defect_keeps_its_traceback(self) -> None:
        for error in (WorkerGroupError("broken", {0: ZeroDivisionError("a defect")}), KeyError("another")):
            assert explained(error, WorkerResources(2, 1.0, 0.0), 3, None) is error


class TestPlan:
    def test_it_says_what_an_epoch_is_and_who_trains(self, tmp_path: Path) -> None:
        training = make_training(*make_run(tmp_path, workers={"number": [1, 2]}))
        first, second = plan(training, WorkerResources((1, 2), 1.0, 0.5))
        steps = -(-(training.manifest.totals.steps - training.manifest.totals.validation_steps) // 16)
        assert (
            first
            == f"2 epochs of {steps} steps, {steps * 16 * 19:,} tokens each · 1 to 2 workers of 1 CPUs, 0.5 GPUs each"
        )
        assert second.endswith("GiB of tokens: resident in every worker, within training.resident_gib 4")

    def test_it_says_that_windows_are_streamed(self, tmp_path: Path) -> None:
        training = make_training(*make_run(tmp_path, resident_gib=1e-9))
        _, second = plan(training, WorkerResources(1, 1.0, 0.0))
        assert second.endswith("GiB of tokens: streamed through Ray Data, above training.resident_gib 1e-09")

    def test_it_says_that_actions_without_bounds_are_predicted_as_they_come(self, tmp_path: Path) -> None:
        """Of a method that predicts actions; the shards' spaces name no bounds."""
        experiment, run = make_run(tmp_path)
        cloning = experiment.model_copy(update={"method": "behaviour_cloning"})
        rows = plan(make_training(cloning, run), WorkerResources(1, 1.0, 0.0))
        assert "GiB of observations, actions: resident" in rows[1]
        assert rows[2].startswith("the data names no bounds of actions")


class TestWhatIsRefusedBeforeTheFirstStep:
    def test_without_shards(self, tmp_path: Path) -> None:
        experiment, _ = make_run(tmp_path)
        with pytest.raises(ManifestError, match="expected finished shards"):
            train(experiment, RunFolder(tmp_path / "empty"))

    def test_another_configuration(self, tmp_path: Path) -> None:
        experiment, run = make_run(tmp_path)
        trained_without_ray(experiment, run)
        with pytest.raises(RunFolderError, match=r"training\.learning_rate: was 0\.0006, is 0\.001"):
            train(make_run(tmp_path, learning_rate=1e-3)[0], run)

    def test_checkpoints_of_another_method(self, tmp_path: Path) -> None:
        experiment, run = make_run(tmp_path)
        claim_folder(run.checkpoints, {"seed": 0, "method": "decision_transformer"}, "checkpoints")
        told = "holds checkpoints of the method decision_transformer; expected those of trajectory_transformer: a run"
        with pytest.raises(RunFolderError, match=rf"{told} has one method\. Choose another --name\.$"):
            train(experiment, run)

    def test_shards_without_what_the_method_reads(self, tmp_path: Path) -> None:
        experiment, run = make_run(tmp_path)
        shutil.rmtree(run.shards)
        write_shards(run.shards, make_episodes(), DataConfig(num_bins=10, store="values"))
        with pytest.raises(
            ManifestError, match=r"observations and actions and rewards of each step, but no tokens; exp"
        ):
            train(experiment, run)
        assert not run.checkpoints.exists()

    def test_another_order_of_the_windows(self, tmp_path: Path) -> None:
        """The setting may change as long as what it decides stays the same."""
        experiment, run = make_run(tmp_path)
        trained_without_ray(experiment, run)
        train(make_run(tmp_path, resident_gib=0.5)[0], run)
        told = r"windows: was 'resident, within training\.resident_gib', is 'streamed, above training\.resident_gib'"
        with pytest.raises(RunFolderError, match=told):
            train(make_run(tmp_path, resident_gib=1e-9)[0], run)

    def test_shards_of_another_layout(self, tmp_path: Path) -> None:
        experiment, run = make_run(tmp_path)
        trained_without_ray(experiment, run)
        for path in run.shards.iterdir():
            path.unlink()
        write_shards(run.shards, make_episodes(), DataConfig(num_bins=7, validation_share=0.2))
        with pytest.raises(CheckpointError, match=r"2 observation and 1 action tokens of 10 bins .*of 7 bins"):
            train(experiment, run)

    def test_a_corrupt_checkpoint(self, tmp_path: Path) -> None:
        experiment, run = make_run(tmp_path)
        path = trained_without_ray(experiment, run) / "training.pt"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(CheckpointError, match=r"training\.pt is corrupt"):
            train(experiment, run)

    def test_a_run_that_another_process_trains(self, tmp_path: Path) -> None:
        experiment, run = make_run(tmp_path)
        run.checkpoints.mkdir()
        told = pytest.raises(RunFolderError, match=rf"is written by the training of process {os.getpid()} on .*--name")
        with exclusive(run.checkpoints, "training"), told:
            train(experiment, run)
        assert not (run.checkpoints / "_identity.yaml").exists()

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        experiment, run = make_run(tmp_path)
        run.checkpoints.write_text("a file where the folder should be")
        with pytest.raises(StorageError, match="cannot be written"):
            train(experiment, run)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray_session")
def test_a_run_that_is_killed_again_and_again_goes_on_as_if_it_never_was(tmp_path: Path) -> None:
    """SIGKILL of the worker; SIGKILL of the driver, whose worker still writes when the next one begins; Ctrl-C.

    Only what is killed has a process of its own: the last part trains in this one.
    """
    experiment, run = make_run(tmp_path, epochs=10_000, epoch_windows=16 * 40, checkpoint_minutes=0.005, log_steps=20)
    config, log = tmp_path / "config.yaml", tmp_path / "log"
    config.write_text(yaml.safe_dump(experiment.model_dump(mode="json")))

    def saved() -> int:
        folder = last_checkpoint(run.checkpoints)
        return read_info(folder).step if folder else 0

    def goes_on() -> None:
        before = saved()
        wait_for(lambda: saved() > before + 30, f"the training goes on from step {before}", log)

    def interrupt() -> None:
        wait_for(lambda: bool(descendants(os.getpid(), "ray::RayTrainWorker")), "a worker of this process", log)
        goes_on()
        os.kill(os.getpid(), signal.SIGINT)

    job = start_job("train", "--config", str(config), log=log)
    try:
        goes_on()
        (worker,) = descendants(job.pid, "ray::RayTrainWorker")
        os.kill(worker, signal.SIGKILL)
        goes_on()
    finally:
        job.kill()
        job.wait(10)
    with ThreadPoolExecutor() as beside:
        interrupted = beside.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(experiment, run)
        interrupted.result()
    last = saved()
    assert read_metrics(run.metrics)[-1]["step"] <= last  # nothing that was reported is lost
    assert curve(run.metrics) == uninterrupted(experiment, run, tmp_path / "straight", until=last)


@pytest.mark.slow
def test_a_training_beside_another_ray_prints_what_one_alone_does(ray_session: None, tmp_path: Path) -> None:
    experiment, run = make_run(tmp_path, epochs=1)
    config, log = tmp_path / "small.yaml", tmp_path / "log"
    config.write_text(yaml.safe_dump(experiment.model_dump(mode="json")))
    assert start_job("train", "--config", str(config), log=log).wait(200) == 0, log.read_text()
    assert read_info(last_checkpoint(run.checkpoints) or tmp_path).epoch == 1
    strangers = [line for line in log.read_text().splitlines() if not line.startswith(("train  ", " " * 10))]
    assert strangers == []
