"""The training loop: steps, reports, validation, checkpoints, and an orderly stop. Without Ray.

Whoever runs the same task again continues from the newest checkpoint; with one worker on the CPU the result is the same
to the bit as without the interruption. Workers decide nothing alone: between steps they agree what comes next
(`pipeline.training.control`), so that all of them report, save, stop and fail at the same step.

An epoch ends with a checkpoint before its validation, which may take longer than a notice gives, and one after it, with
what was measured. A run that continues from the first one validates and reports that epoch.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from torch import nn

from pipeline.errors import PipelineError
from pipeline.training.control import Command, Control
from pipeline.training.metrics import Metrics
from pipeline.training.objective import Objective
from pipeline.training.recorder import HeldOut, Recorder
from pipeline.training.resume import resume
from pipeline.training.saver import CheckpointSaver
from pipeline.training.schedule import Schedule
from pipeline.training.state import TrainingState
from pipeline.training.step import TrainStep
from pipeline.training.task import TrainingTask
from pipeline.training.utilisation import Speed, memory_gib, peak_flops
from pipeline.training.validation import Validation
from pipeline.training.windows import WindowSource
from pipeline.training.world import World

T = TypeVar("T")


class TrainingLoop:
    """One worker's run of a task.

    Args:
        task: What to train with.
        objective: What to train; its model has its initial weights, and is on the world's device.
        world: The workers.
        schedule: Steps and learning rates.
        stop_requested: Asked now and then on every worker; True on any of them ends the run with a checkpoint.
        load_initial: Replaces the weights of the model of a run that begins, None where it begins from nothing.

    Raises:
        CheckpointError: The checkpoint to continue from is corrupt or out of sight, or the initial weights do not fit.
        StorageError: The run's folder could not be written in any attempt.
    """

    def __init__(
        self,
        task: TrainingTask,
        objective: Objective,
        world: World,
        schedule: Schedule,
        stop_requested: Callable[[], bool],
        load_initial: Callable[[nn.Module], None] | None = None,
    ) -> None:
        self._task, self._world, self._schedule = task, world, schedule
        self._step = TrainStep(objective, task.training, world, task.seed)
        self._state = TrainingState.start(len(objective.measures), world.device)
        saver = _saver(task) if world.rank == 0 else None
        resume(task.checkpoints, world, self._step, self._state, load_initial)
        self._recorder = Recorder(task, schedule, objective.measures, saver, self._state, world) if saver else None
        self._control = Control(world, self._state.step, task.training.checkpoint_minutes, stop_requested)
        flops = objective.flops_per_window * task.training.batch_size
        peak = peak_flops(world.device, self._step.dtype) * world.size
        self._line_speed, self._epoch_speed = (Speed(schedule, flops, peak, world.device) for _ in range(2))

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self._state.step

    def run(self, windows: WindowSource, validation: Validation | None) -> None:
        """Trains to the end, or until asked to stop.

        Args:
            windows: This worker's training windows.
            validation: Held-out windows, None without held-out episodes.

        Raises:
            TrainingDivergedError: A loss became NaN or jumped; names the last good checkpoint.
            StorageError: The last checkpoint or the end of the record could not be written in any attempt.
            RunFolderError: Another worker has taken over the run.
        """
        self._line_speed.start(self._state.step)
        self._epoch_speed.start(self._state.step)
        try:
            self._train(windows, validation)
        except BaseException:
            if self._recorder:
                self._recorder.abandon()
            raise
        self._on_first(lambda recorder: recorder.close())

    def _train(self, windows: WindowSource, validation: Validation | None) -> None:
        command = Command.CONTINUE
        while command is not Command.STOP:
            if self._at_epochs_end and self._state.epoch.steps:
                self._report_epoch(validation)
            if self._state.step >= self._schedule.total_steps:
                return
            self._train_step(windows)
            if self._state.step % self._task.training.log_steps == 0:
                self._report_step()
            command = self._control.command(self._state.step)
            if command is not Command.CONTINUE or (self._at_epochs_end and validation):
                self._save({})

    @property
    def _at_epochs_end(self) -> bool:
        return self._state.step % self._schedule.steps_per_epoch == 0

    def _train_step(self, windows: WindowSource) -> None:
        step, started = self._state.step, time.perf_counter()
        batch = windows.batch(step)
        waited = time.perf_counter() - started
        for speed in (self._line_speed, self._epoch_speed):
            speed.add_input(waited)
        self._state.add(self._step(batch, step, self._schedule.learning_rate(step)))

    def _report_step(self) -> None:
        self._state.gather(self._world)
        speed = self._line_speed.read(self._state.step) | self._resources()
        self._on_first(lambda recorder: recorder.step_line(self._state, speed))
        self._state.interval.clear()

    def _report_epoch(self, validation: Validation | None) -> None:
        self._state.gather(self._world)
        speed = self._epoch_speed.read(self._state.step) | self._resources()
        sums = validation.sums(self._step) if validation else None
        held_out = self._on_first(lambda recorder: recorder.epoch_line(self._state, sums, speed))
        self._state.epoch.clear()
        self._save(held_out or {})
        self._line_speed.start(self._state.step)
        self._epoch_speed.start(self._state.step)

    def _save(self, held_out: HeldOut) -> None:
        self._state.gather(self._world)
        self._on_first(lambda recorder: recorder.checkpoint(self._state, self._step, held_out))
        self._control.saved()

    def _on_first(self, action: Callable[[Recorder], T]) -> T | None:
        """Returns what `action` gives on worker 0, None on the others.

        An error of it is every worker's, so that none waits for the others for ever.
        """
        result: T | None = None
        error: PipelineError | None = None
        if self._recorder:
            try:
                result = action(self._recorder)
            except PipelineError as caught:
                error = caught
        told = self._world.broadcast(error)
        if told is not None:
            raise told
        return result

    def _resources(self) -> Metrics:
        return {"memory_gib": memory_gib(self._world.device), "workers": self._world.size}


def _saver(task: TrainingTask) -> CheckpointSaver:
    return CheckpointSaver(task.checkpoints, task.config, task.manifest.to_json(), task.training.keep_best)
