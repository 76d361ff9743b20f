"""What the process that waits for the workers does, with a stand-in for Ray Train that works in this process."""

import os
import re
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train.torch
import torch
from ray.train import ControllerError

import pipeline.distributed.train
import pipeline.training.control
from pipeline.configuration import IDENTITY
from pipeline.data.config import DataConfig
from pipeline.distributed.placement import StoppedWithoutWorkersError
from pipeline.distributed.train import train
from pipeline.distributed.train_worker import stop_request, train_worker
from pipeline.errors import CheckpointError, ConfigError, RunFolderError, StorageError
from pipeline.experiment import Experiment
from pipeline.methods.checkpoint import load_checkpoint, load_initial_weights
from pipeline.run_folder import RunFolder
from pipeline.stored import sealed, unsealed
from pipeline.training.checkpoint import (
    INFO,
    MODEL,
    Selection,
    best_checkpoint,
    last_checkpoint,
    list_checkpoints,
    read_info,
)
from pipeline.training.display import Display
from pipeline.training.metrics import read_metrics
from tests.data.in_memory import write_shards
from tests.distributed.driver import WAIT_S, Trainer, Waits
from tests.distributed.training_runs import make_run
from tests.models.test_import_checkpoint import public_state
from tests.training.tasks import make_episodes, make_task


def test_what_is_waited_for_between_steps_is_told(
    tmp_path: Path, trainer: type[Trainer], waits: Waits, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(recipe: dict[str, Any]) -> None:
        waits.until("^the first steps of 1 worker of 1 CPUs, 0 GPUs$")
        train_worker(recipe)
        waits.until("^steps after 24 of 1 worker of 1 CPUs, 0 GPUs$")

    trainer.works = staticmethod(work)
    experiment, run = make_run(tmp_path)
    train(experiment, run)
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].startswith("train     2 epochs of 12 steps, 3,648 tokens each · 1 worker of 1 CPUs")
    assert [row[10:19] for row in rows if "/2 ·" in row] == ["epoch 1/2", "epoch 2/2"]
    assert re.match(r"train     2 epochs, 24 steps, validation loss \d\.\d{4} at epoch \d", rows[-1])


def test_the_last_epoch_is_shown_however_soon_the_workers_end(
    tmp_path: Path, trainer: type[Trainer], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They train and end between a look at the metrics and the look whether they are still there."""
    looked, refresh = threading.Event(), Display.refresh

    def work(recipe: dict[str, Any]) -> None:
        assert looked.wait(WAIT_S)
        train_worker(recipe)

    def refresh_and_let_them_end(display: Display) -> bool:
        news = refresh(display)
        looked.set()
        for thread in threading.enumerate():
            if thread.name == "fit":
                thread.join(WAIT_S)
        return news

    trainer.works = staticmethod(work)
    monkeypatch.setattr(Display, "refresh", refresh_and_let_them_end)
    experiment, run = make_run(tmp_path)
    train(experiment, run)
    assert "epoch 2/2 · step 24" in capsys.readouterr().out


class TestWhatCheckpointsAreSelectedBy:
    def test_is_told_at_the_end_with_its_value(
        self, tmp_path: Path, trainer: type[Trainer], capsys: pytest.CaptureFixture[str]
    ) -> None:
        experiment, run = make_run(tmp_path, select_by="accuracy_action")
        for begins in ("2 epochs, 24 steps", "nothing to do: 2 epochs, 24 steps"):
            train(experiment, run)
            best = max(
                (line["validation_accuracy_action"], -line["epoch"])
                for line in read_metrics(run.metrics)
                if line["kind"] == "epoch"
            )
            told = f"train     {begins}, validation accuracy_action {best[0]:.4f} at epoch {-best[1]:.0f} ("
            assert told in capsys.readouterr().out
        assert read_info(best_checkpoint(run.checkpoints)).selected_by == Selection("accuracy_action", best[0])

    def test_must_be_measured_on_this_data(self, tmp_path: Path, trainer: type[Trainer]) -> None:
        experiment, run = make_run(tmp_path, select_by="accuracy_action")
        told = r"^training\.select_by is 'accuracy_action'; expected one of loss, which decision_transformer measures\."
        with pytest.raises(ConfigError, match=told):
            train(experiment.model_copy(update={"method": "decision_transformer"}), run)
        assert not hasattr(trainer, "made")
        assert not run.checkpoints.exists()

    def test_needs_held_out_episodes(self, tmp_path: Path, trainer: type[Trainer]) -> None:
        _, run = make_run(tmp_path)
        shutil.rmtree(run.shards)
        write_shards(run.shards, make_episodes(), DataConfig(num_bins=10, validation_share=0.0))
        with pytest.raises(
            ConfigError, match=r"select_by is 'loss_action', and no episodes are held out to measure it"
        ):
            train(*make_run(tmp_path, select_by="loss_action"))

    @pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "from before there was a choice"])
    def test_is_fixed_in_a_run(self, tmp_path: Path, trainer: type[Trainer], recorded: bool) -> None:
        experiment, run = make_run(tmp_path)
        train(experiment, run)
        identity = run.checkpoints / IDENTITY
        if not recorded:
            identity.write_text(identity.read_text().replace("  select_by: loss\n", ""))
        train(experiment, run)
        with pytest.raises(RunFolderError, match=r"training\.select_by: was 'loss', is 'loss_action'\nChoose another"):
            train(*make_run(tmp_path, select_by="loss_action"))


def test_a_finished_training_whose_best_checkpoint_is_damaged_says_so(tmp_path: Path, trainer: type[Trainer]) -> None:
    """The last one is read to go on, the best one by nobody before an evaluation."""
    experiment, run = make_run(tmp_path, keep_best=2)
    train(experiment, run)
    _, last = folders = list_checkpoints(run.checkpoints)
    for folder in folders:
        info = unsealed((folder / INFO).read_bytes())
        (folder / INFO).write_text(sealed({**info, "validation_loss": float(folder == last)}))
    weights = folders[0] / MODEL
    weights.write_bytes(weights.read_bytes()[:-4] + b"oops")
    with pytest.raises(CheckpointError, match=rf"^{weights} is corrupt: .* Remove that folder and train again"):
        train(experiment, run)


class TestWorkersThatEndBeforeTheLastEpoch:
    """Something else than this process asked them to, by the file that is meant for it."""

    TOLD = (
        r"workers ended, and \S*checkpoints has 0 of 2 epochs; expected all .* file stop-requested .*same command again"
    )

    def test_have_not_finished_the_training(
        self, tmp_path: Path, trainer: type[Trainer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pipeline.training.control, "CONTROL_SECONDS", 0.0)
        experiment, run = make_run(tmp_path)

        def work(recipe: dict[str, Any]) -> None:
            stop_request(run).touch()
            train_worker(recipe)

        trainer.works = staticmethod(work)
        with pytest.raises(RunFolderError, match=self.TOLD):
            train(experiment, run)
        trainer.works = staticmethod(train_worker)
        train(experiment, run)
        assert read_metrics(run.metrics)[-1]["epoch"] == 2

    def test_nor_have_those_that_were_not_even_there(self, tmp_path: Path, trainer: type[Trainer]) -> None:
        def work(_recipe: dict[str, Any]) -> None:
            raise ControllerError(StoppedWithoutWorkersError())

        trainer.works = staticmethod(work)
        with pytest.raises(RunFolderError, match=self.TOLD):
            train(*make_run(tmp_path))


class TestAStopRequest:
    """Ctrl-C is sent to this process, whose `train` handles it; workers see the file."""

    @pytest.fixture
    def run(self, tmp_path: Path, trainer: type[Trainer], waits: Waits) -> tuple[Experiment, RunFolder]:
        experiment, run = make_run(tmp_path)

        def work(_recipe: dict[str, Any]) -> None:
            waits.until("^the first steps")
            os.kill(os.getpid(), signal.SIGINT)
            deadline = threading.Event()
            for _ in range(int(WAIT_S / 0.01)):
                if stop_request(run).exists():
                    return
                deadline.wait(0.01)

        trainer.works = staticmethod(work)
        return experiment, run

    def test_reaches_the_workers_and_then_takes_its_usual_course(
        self, run: tuple[Experiment, RunFolder], waits: Waits
    ) -> None:
        with pytest.raises(KeyboardInterrupt):
            train(*run)
        assert waits[-1] == "the workers to write a checkpoint and end; the same signal again ends at once"
        assert stop_request(run[1]).exists()

    def test_is_written_as_soon_as_the_storage_takes_it(
        self, run: tuple[Experiment, RunFolder], waits: Waits, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        touch, refusals = Path.touch, [1, 2]

        def refuse_twice(path: Path) -> None:
            if refusals:
                refusals.pop()
                raise OSError(28, "No space left on device")
            touch(path)

        monkeypatch.setattr(Path, "touch", refuse_twice)
        with pytest.raises(KeyboardInterrupt):
            train(*run)
        told = [what for what in waits if "No space left" in what]
        assert len(told) == 2
        assert told[0].startswith(f"{stop_request(run[1])} to be writable, where the workers are asked to end")


def test_a_signal_that_the_process_was_started_to_ignore_stops_nothing(
    tmp_path: Path, trainer: type[Trainer], waits: Waits
) -> None:
    def work(recipe: dict[str, Any]) -> None:
        waits.until("^the first steps")
        os.kill(os.getpid(), signal.SIGINT)
        train_worker(recipe)

    trainer.works = staticmethod(work)
    experiment, run = make_run(tmp_path)
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        train(experiment, run)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert read_metrics(run.metrics)[-1]["epoch"] == experiment.training.epochs
    assert not any("to write a checkpoint and end" in what for what in waits)


class TestRaysRecord:
    """The folder in the run that has nothing in it."""

    @pytest.fixture(autouse=True)
    def stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        remove = shutil.rmtree

        def refuse(path: Path, **options: Any) -> None:
            if Path(path).name == "ray":
                raise OSError(39, "Directory not empty")
            remove(path, **options)

        monkeypatch.setattr(shutil, "rmtree", refuse)

    def test_does_not_fail_a_training_that_has_finished(
        self, tmp_path: Path, trainer: type[Trainer], caplog: pytest.LogCaptureFixture
    ) -> None:
        experiment, run = make_run(tmp_path)
        train(experiment, run)
        assert re.search(
            r"small/ray could not be removed .*Directory not empty.*next training tries again", caplog.text
        )

    def test_does_not_hide_what_ended_the_training(self, tmp_path: Path, trainer: type[Trainer]) -> None:
        def work(_recipe: dict[str, Any]) -> None:
            raise StorageError("the disk is full")

        trainer.works = staticmethod(work)
        with pytest.raises(StorageError, match="the disk is full"):
            train(*make_run(tmp_path))


class TestWhatTheWorkersGet:
    def test_on_a_cpu_they_keep_freed_memory_unless_the_user_says_otherwise(
        self, tmp_path: Path, trainer: type[Trainer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MALLOC_TOP_PAD_", "1")
        monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
        train(*make_run(tmp_path))
        variables = trainer.made["run_config"].worker_runtime_env["env_vars"]
        assert variables["MALLOC_TRIM_THRESHOLD_"] == "8589934592"
        assert "MALLOC_TOP_PAD_" not in variables

    @pytest.mark.parametrize(("gpus", "backend"), [(0.5, "gloo"), (0, None)])
    def test_workers_that_share_a_gpu_speak_gloo(
        self,
        tmp_path: Path,
        trainer: type[Trainer],
        monkeypatch: pytest.MonkeyPatch,
        gpus: float,
        backend: str | None,
    ) -> None:
        """Ray Train chooses nccl where there are GPUs, and nccl refuses two workers on one."""
        monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0, "GPU": 1.0}}])
        train(*make_run(tmp_path, workers={"number": 2, "gpus": gpus, "cpus": None}))
        assert trainer.made["torch_config"].backend == backend
        assert trainer.made["scaling_config"].use_gpu is (gpus > 0)

    def test_relative_places_mean_the_same_to_them_and_stay_as_they_were_given_in_the_record(
        self, tmp_path: Path, trainer: type[Trainer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "here").mkdir()
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        write_shards(Path("tokens"), make_episodes(), DataConfig(num_bins=10, validation_share=0.2))
        experiment, run = make_run(tmp_path / "runs", epochs=1, init_from="public/state_49.pt", learning_rate=1e-12)
        shutil.rmtree(run.shards)
        experiment = experiment.model_copy(update={"data": experiment.data.model_copy(update={"output": "tokens"})})
        write_public_weights(Path("public/state_49.pt"), tmp_path)

        def work(recipe: dict[str, Any]) -> None:
            os.chdir(tmp_path / "elsewhere")
            train_worker(recipe)

        trainer.works = staticmethod(work)
        train(experiment, run)
        loaded = load_checkpoint(last_checkpoint(run.checkpoints) or Path())
        assert loaded.config == experiment.model_dump(mode="json")
        assert (loaded.config["training"]["init_from"], loaded.config["data"]["output"]) == (
            "public/state_49.pt",
            "tokens",
        )
        training, source = make_task(tmp_path / "task"), str(tmp_path / "here" / "public" / "state_49.pt")
        initial = training.make_model()
        load_initial_weights(initial, training.method, training.settings, training.manifest, source)
        # At that learning rate they stay what they were.
        for ours, public in zip(loaded.model.parameters(), initial.parameters(), strict=True):
            assert torch.allclose(ours, public, atol=1e-7)


def write_public_weights(path: Path, folder: Path) -> None:
    """For the model of the runs here, by the names of the public code."""
    training = make_task(folder / "task")
    path.parent.mkdir(parents=True)
    torch.save(public_state(training.settings, training.manifest.layout), path)


def test_an_epoch_that_is_not_reported_is_work_to_do(
    tmp_path: Path, trainer: type[Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All steps are done, but the run was killed while it validated."""
    _, run = make_run(tmp_path)

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.training.validation.Validation.sums", die)
        with pytest.raises(Killed):
            train(*make_run(tmp_path, epochs=1))
    assert "epoch" not in [line["kind"] for line in read_metrics(run.metrics)]
    train(*make_run(tmp_path, epochs=1))
    assert [line["step"] for line in read_metrics(run.metrics) if line["kind"] == "epoch"] == [12]
    made = trainer.made
    train(*make_run(tmp_path, epochs=1))
    assert trainer.made is made  # nothing to do
