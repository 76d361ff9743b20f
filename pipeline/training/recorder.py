"""What worker 0 does for all: writes metrics and checkpoints, and tells divergence."""

import logging
import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from pipeline.errors import StorageError, TrainingDivergedError
from pipeline.provenance import commit, computed_by, hardware
from pipeline.training.checkpoint import COMPUTED_BY, CheckpointInfo, Selection, last_checkpoint
from pipeline.training.config import LOSS
from pipeline.training.divergence import RECENT_LINES, divergence
from pipeline.training.metrics import Metrics, MetricsLog
from pipeline.training.objective import measured
from pipeline.training.saver import CheckpointSaver, Snapshot
from pipeline.training.schedule import Schedule
from pipeline.training.state import RunningSums, TrainingState, host_copy
from pipeline.training.step import TrainStep
from pipeline.training.task import TrainingTask
from pipeline.training.world import World

logger = logging.getLogger(__name__)

HeldOut = Mapping[str, float | None]
"""Measures on held-out episodes by their names, None where nothing was counted; empty where there was no validation."""


class Recorder:
    """The record of one run.

    Args:
        task: What is trained.
        schedule: Steps and learning rates.
        measures: Names of what the objective measures.
        saver: Of its checkpoints; closed with the recorder.
        state: Where the run begins.
        world: The workers that train together from here on.

    Raises:
        StorageError: The record could not be opened.
    """

    def __init__(
        self,
        task: TrainingTask,
        schedule: Schedule,
        measures: Sequence[str],
        saver: CheckpointSaver,
        state: TrainingState,
        world: World,
    ) -> None:
        self._task, self._schedule, self._measures = task, schedule, measures
        self._saver, self._beside = saver, saver.beside
        self._log = MetricsLog(task.metrics, task.tensorboard, state.step, self._epochs(state))
        self._trained_on = {
            **hardware(),
            COMPUTED_BY: computed_by(world.device),
            "workers": str(world.size),
            "commit": commit(),
        }

    def step_line(self, state: TrainingState, speed: Metrics) -> None:
        """Writes a line of kind `step`.

        Raises:
            TrainingDivergedError: The interval's loss or gradient norm says so.
            StorageError: The line is neither written nor refused.
        """
        line = self._line(state, state.interval)
        self._require_convergence(line, state.recent_losses)
        if isinstance(line["loss"], float):
            state.recent_losses = [*state.recent_losses, line["loss"]][-RECENT_LINES:]
        self._write("step", line | speed)

    def epoch_line(self, state: TrainingState, validation_M2: Tensor | None, speed: Metrics) -> HeldOut:
        """Writes a line of kind `epoch` and returns what was measured on held-out episodes.

        Raises:
            TrainingDivergedError: A number of the epoch, the validation loss, or what checkpoints are selected by is
                not finite. The checkpoint of such a model is removed.
            StorageError: The line is neither written nor refused.
        """
        line = self._line(state, state.epoch)
        self._require_convergence(line, [])
        held_out = {} if validation_M2 is None else measured(self._measures, validation_M2)
        for name in (LOSS, self._task.training.select_by):
            value = held_out.get(name)
            if value is not None and not math.isfinite(value):
                self._saver.discard(state.step)
                raise self._diverged(state.step, f"the validation {name} is {value}")
        self._write("epoch", line | {f"validation_{name}": value for name, value in held_out.items()} | speed)
        return held_out

    def checkpoint(self, state: TrainingState, step: TrainStep, held_out: HeldOut) -> None:
        """Starts writing a checkpoint of this moment, unless the loss since the last line is a jump.

        It may be that of a single step, which is noise, or the beginning of the end: the next line tells. Until then
        the last good checkpoint stays; a run that ends meanwhile does the steps after that one again.

        Raises:
            TrainingDivergedError: A number since the last line is not finite.
            StorageError: The checkpoint before is neither written nor refused.
            RunFolderError: Another worker has taken over the run.
        """
        if state.interval.steps and self._is_in_doubt(state):
            return
        named = self._task.training.select_by
        selection = None if named == LOSS else Selection(named, held_out.get(named))
        info = CheckpointInfo(state.step, self._epochs(state), held_out.get(LOSS), self._trained_on, selection)
        training = {"optimizer": step.optimizer.state_dict(), "state": state.state_dict()}
        snapshot = Snapshot(info, host_copy(step.model.state_dict()), host_copy(training))
        self._saver.save(snapshot, before=self._log.sync)

    def close(self) -> None:
        """Waits for the last checkpoint and closes all files.

        Raises:
            StorageError: The last checkpoint or the end of the record could not be written.
            RunFolderError: Another worker has taken over the run.
        """
        try:
            self._saver.close()
        finally:
            self._beside.do(self._log.close, f"Writing the end of {self._task.metrics}")

    def abandon(self) -> None:
        """Closes all files after an error, which stays the one that ends the run."""
        try:
            self.close()
        except Exception as error:
            logger.warning("The record could not be closed: %s", error)

    def _epochs(self, state: TrainingState) -> int:
        """Returns the epochs that are reported: their sums are cleared then."""
        return (state.step - state.epoch.steps) // self._schedule.steps_per_epoch

    def _write(self, kind: str, line: Metrics) -> None:
        what = f"Writing the line of step {line['step']} into {self._task.metrics}"
        self._beside.do(lambda: self._log.write(kind, line), what)

    def _line(self, state: TrainingState, sums: RunningSums) -> Metrics:
        steps = max(1, sums.steps)
        return {
            "epoch": state.step / self._schedule.steps_per_epoch,
            "step": state.step,
            "tokens": state.step * self._schedule.tokens_per_step,
            "learning_rate": self._schedule.learning_rate(state.step - 1),
            "gradient_norm": sums.gradient_norms.item() / steps,
            "failed_checkpoints": self._saver.failures,
            **measured(self._measures, sums.sums_M2),
        }

    def _require_convergence(self, line: Metrics, recent: list[float]) -> None:
        reason = self._divergence(line, recent)
        if reason:
            raise self._diverged(int(line["step"] or 0), reason)

    def _divergence(self, line: Metrics, recent: list[float]) -> str:
        loss, norm = line["loss"], line["gradient_norm"]
        assert loss is None or isinstance(loss, float)
        assert isinstance(norm, float)
        return divergence(loss, norm, recent, self._task.training.spike_factor)

    def _is_in_doubt(self, state: TrainingState) -> bool:
        """Returns whether the steps since the last line may have spoilt the model, as a line to come will tell."""
        line = self._line(state, state.interval)
        self._require_convergence(line, [])
        if state.step == self._schedule.total_steps:
            return False  # no line is to come
        reason = self._divergence(line, state.recent_losses)
        if reason:
            told = "No checkpoint of step %d: in %d steps since the last line %s. The next line tells whether it lasts."
            logger.warning(told, state.step, state.interval.steps, reason)
        return bool(reason)

    def _diverged(self, step: int, reason: str) -> TrainingDivergedError:
        return TrainingDivergedError(
            f"Training diverged at step {step}: {reason}; expected a finite loss without jumps. {self._last_good()} "
            "If such a jump does no harm, raise training.spike_factor and run the same command again; else train under "
            "another --name with a lower training.learning_rate or training.gradient_clip, which are fixed in this run."
        )

    def _last_good(self) -> str:
        """Returns which checkpoint is the last good one, a sentence."""
        checkpoints = self._task.checkpoints
        try:
            self._saver.settle()
            good = self._beside.do(lambda: last_checkpoint(checkpoints), f"Looking for checkpoints in {checkpoints}")
        except StorageError as error:
            return f"Which checkpoint is the last good one is not known: {error}"
        return f"The last good checkpoint is {good}." if good else "There is no checkpoint yet."
