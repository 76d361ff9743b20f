"""What worker 0 does for all: writes metrics and checkpoints, and tells divergence."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.data.manifest import Manifest
from pipeline.errors import TrainingDivergedError
from pipeline.models.config import ModelConfig
from pipeline.provenance import commit, hardware
from pipeline.training.checkpoint import CheckpointInfo, last_checkpoint
from pipeline.training.config import TrainingConfig
from pipeline.training.divergence import RECENT_LINES, divergence
from pipeline.training.loss import report
from pipeline.training.metrics import Metrics, MetricsLog
from pipeline.training.saver import CheckpointSaver, Snapshot
from pipeline.training.schedule import Schedule
from pipeline.training.state import RunningSums, TrainingState, host_copy
from pipeline.training.step import TrainStep


@dataclass(frozen=True)
class TrainingTask:
    """What to train and where its record goes; plain values, the same for every worker.

    Attributes:
        seed: Root seed of the experiment.
        model: Shape of the model.
        training: Optimizer, schedule, checkpoints.
        config: The effective experiment as plain values, stored in every checkpoint.
        manifest: Of the shards.
        checkpoints, metrics, tensorboard: Where they go.
    """

    seed: int
    model: ModelConfig
    training: TrainingConfig
    config: dict[str, Any]
    manifest: Manifest
    checkpoints: Path
    metrics: Path
    tensorboard: Path


class Recorder:
    """The record of one run.

    Args:
        task: What is trained.
        schedule: Steps and learning rates.
        resumed_step: Step of the checkpoint that the run continues from, 0 for a new run.
        workers: How many train together from here on.
    """

    def __init__(self, task: TrainingTask, schedule: Schedule, resumed_step: int, workers: int) -> None:
        self._task, self._schedule = task, schedule
        self._log = MetricsLog(task.metrics, task.tensorboard, resumed_step)
        self._trained_on = {**hardware(), "workers": str(workers), "commit": commit()}
        self._saver = CheckpointSaver(task.checkpoints, task.config, task.manifest.to_json(), task.training.keep_best)

    def step_line(self, state: TrainingState, speed: Metrics) -> None:
        """Writes a line of kind `step`.

        Raises:
            TrainingDivergedError: The interval's loss or gradient norm says so.
            StorageError: The line could not be written.
        """
        line = self._line(state, state.interval)
        self._require_convergence(line, state.recent_losses)
        if isinstance(line["loss"], float):
            state.recent_losses = [*state.recent_losses, line["loss"]][-RECENT_LINES:]
        self._log.write("step", line | speed)

    def epoch_line(self, state: TrainingState, validation_3K: Tensor | None, speed: Metrics) -> float | None:
        """Writes a line of kind `epoch` and returns its validation loss, None without held-out episodes.

        Raises:
            TrainingDivergedError: A number of the epoch is not finite.
            StorageError: The line could not be written.
        """
        line = self._line(state, state.epoch)
        self._require_convergence(line, [])
        held_out: Metrics = {}
        if validation_3K is not None:
            held_out = dict(report(validation_3K, self._task.training.loss_weights, "validation_"))
        self._log.write("epoch", line | held_out | speed)
        loss = held_out.get("validation_loss")
        return loss if isinstance(loss, float) else None

    def checkpoint(self, state: TrainingState, step: TrainStep, validation_loss: float | None) -> None:
        """Starts writing a checkpoint of this moment.

        Raises:
            TrainingDivergedError: What was summed since the last line is not finite: such a model is not kept.
            StorageError: The lines so far, or the checkpoint before this one, could not be written.
        """
        if state.interval.steps:
            self._require_convergence(self._line(state, state.interval), [])
        self._log.sync()
        epoch = state.step // self._schedule.steps_per_epoch
        info = CheckpointInfo(state.step, epoch, validation_loss, self._trained_on)
        training = {"optimizer": step.optimizer.state_dict(), "state": state.state_dict()}
        self._saver.save(Snapshot(info, host_copy(step.model.state_dict()), host_copy(training)))

    def close(self) -> None:
        """Waits for the last checkpoint and closes all files.

        Raises:
            StorageError: The last checkpoint or the end of the record could not be written.
        """
        try:
            self._saver.close()
        finally:
            self._log.close()

    def _line(self, state: TrainingState, sums: RunningSums) -> Metrics:
        steps = max(1, sums.steps)
        return {
            "epoch": state.step / self._schedule.steps_per_epoch,
            "step": state.step,
            "tokens": state.step * self._schedule.tokens_per_step,
            "learning_rate": self._schedule.learning_rate(state.step - 1),
            "gradient_norm": sums.gradient_norms.item() / steps,
            **report(sums.sums_3K, self._task.training.loss_weights),
        }

    def _require_convergence(self, line: Metrics, recent: list[float]) -> None:
        loss, norm = line["loss"], line["gradient_norm"]
        assert loss is None or isinstance(loss, float)
        assert isinstance(norm, float)
        reason = divergence(loss, norm, recent, self._task.training.spike_factor)
        if not reason:
            return
        self._saver.wait()
        good = last_checkpoint(self._task.checkpoints)
        where = f"The last good checkpoint is {good}" if good else "There is no checkpoint yet"
        raise TrainingDivergedError(
            f"Training diverged at step {line['step']}: {reason}; expected a finite loss without jumps. {where}. "
            "If such a jump does no harm, raise training.spike_factor and run the same command again; else train under "
            "another --name with a lower training.learning_rate or training.gradient_clip, which are fixed in this run."
        )
