"""The training loop: steps, reports, validation, checkpoints, and an orderly stop. Without Ray.

Whoever runs the same task again continues from the newest checkpoint; with one worker on the CPU the result is the same
to the bit as without the interruption. Workers decide nothing alone: between steps they agree what comes next, so that
all of them report, save, stop and fail at the same step.
"""

import time
from collections.abc import Callable
from enum import IntEnum
from typing import Literal

import torch

from pipeline.errors import PipelineError
from pipeline.models.trajectory_transformer import TrajectoryTransformer
from pipeline.seeding import derived_seed
from pipeline.training.checkpoint import last_checkpoint, load_training_state
from pipeline.training.initial import load_initial_weights
from pipeline.training.metrics import Metrics
from pipeline.training.recorder import Recorder, TrainingTask
from pipeline.training.schedule import Schedule
from pipeline.training.state import TrainingState
from pipeline.training.step import TrainStep
from pipeline.training.utilisation import Stopwatch, memory_gib, model_flops_per_token, peak_flops
from pipeline.training.validation import Validation
from pipeline.training.windows import WindowSource
from pipeline.training.world import World

CONTROL_STEPS = 8
"""Steps between two agreements where there are several workers: each costs a message between hosts."""
CONTROL_SECONDS = 0.5
"""Seconds between two looks at the stop request, which may lie on a shared file system."""

Outcome = Literal["finished", "stopped"]


class _Command(IntEnum):
    CONTINUE = 0
    CHECKPOINT = 1
    STOP = 2


class TrainingLoop:
    """One worker's run of a task.

    Args:
        task: What to train.
        world: The workers.
        schedule: Steps and learning rates.
        stop_requested: Asked now and then on every worker; True on any of them ends the run with a checkpoint.
    """

    def __init__(
        self, task: TrainingTask, world: World, schedule: Schedule, stop_requested: Callable[[], bool]
    ) -> None:
        self._task, self._world, self._config, self._schedule = task, world, task.training, schedule
        self._stop_requested = stop_requested
        torch.manual_seed(derived_seed(task.seed, "initial weights"))
        model = TrajectoryTransformer(task.model, task.manifest.layout).to(world.device)
        self._step = TrainStep(model, task.training, world, task.seed)
        self._state = TrainingState.start(world.device)
        self._restore()
        self._recorder = Recorder(task, schedule, self._state.step, world.size) if world.rank == 0 else None
        self._flops_per_step = model_flops_per_token(model) * schedule.tokens_per_step
        self._peak_flops = peak_flops(world.device, self._step.dtype) * world.size
        self._watch = Stopwatch(self._state.step)
        self._saved = self._looked = time.monotonic()

    def _restore(self) -> None:
        folder = last_checkpoint(self._task.checkpoints)
        if folder is None:
            if self._config.init_from is not None:
                load_initial_weights(self._step.model, self._config.init_from)
            return
        model, training = load_training_state(folder)
        self._step.model.load_state_dict(model)
        self._step.optimizer.load_state_dict(training["optimizer"])
        self._state.load_state_dict(training["state"], self._world)

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self._state.step

    def run(self, windows: WindowSource, validation: Validation | None) -> Outcome:
        """Trains to the end, or until asked to stop.

        Args:
            windows: This worker's training windows.
            validation: Held-out windows, None without held-out episodes.

        Raises:
            TrainingDivergedError: The loss became NaN or jumped; names the last good checkpoint.
            StorageError: A checkpoint could not be written in any attempt.
        """
        self._watch.reset(self._state.step)
        try:
            outcome = self._steps(windows, validation)
        except PipelineError:
            if self._recorder:
                self._recorder.close()
            raise
        self._on_first(lambda recorder: recorder.close())
        return outcome

    def _steps(self, windows: WindowSource, validation: Validation | None) -> Outcome:
        while self._state.step < self._schedule.total_steps:
            step = self._state.step
            self._state.add(self._step(windows.batch(step), step, self._schedule.learning_rate(step)))
            if self._after_step(validation) is _Command.STOP:
                return "stopped"
        return "finished"

    def _after_step(self, validation: Validation | None) -> _Command:
        step = self._state.step
        if step % self._config.log_steps == 0:
            self._report_step()
        command = self._command()
        if step % self._schedule.steps_per_epoch == 0:
            self._report_epoch(validation)
        elif command is not _Command.CONTINUE:
            self._save(None)
        return command

    def _command(self) -> _Command:
        """Returns what the workers do next, the most urgent wish of all; every worker asks at the same steps."""
        if self._world.size > 1 and self._state.step % CONTROL_STEPS:
            return _Command.CONTINUE
        return _Command(self._world.largest(self._wish()))

    def _wish(self) -> _Command:
        now = time.monotonic()
        if now - self._looked >= CONTROL_SECONDS:
            self._looked = now
            if self._stop_requested():
                return _Command.STOP
        due = now - self._saved >= 60 * self._config.checkpoint_minutes
        return _Command.CHECKPOINT if due else _Command.CONTINUE

    def _report_step(self) -> None:
        self._state.gather(self._world)
        self._on_first(lambda recorder: recorder.step_line(self._state, self._speed()))
        self._state.interval.clear()

    def _report_epoch(self, validation: Validation | None) -> None:
        self._state.gather(self._world)
        sums = validation.sums(self._step) if validation else None
        losses: list[float | None] = []
        self._on_first(lambda recorder: losses.append(recorder.epoch_line(self._state, sums, self._resources())))
        self._state.epoch.clear()
        self._save(losses[0] if losses else None)
        self._watch.reset(self._state.step)

    def _save(self, validation_loss: float | None) -> None:
        self._state.gather(self._world)
        self._on_first(lambda recorder: recorder.checkpoint(self._state, self._step, validation_loss))
        self._saved = time.monotonic()

    def _on_first(self, action: Callable[[Recorder], None]) -> None:
        """Runs `action` on worker 0; its error there is every worker's, so that none waits for the others for ever."""
        error: PipelineError | None = None
        if self._recorder:
            try:
                action(self._recorder)
            except PipelineError as caught:
                error = caught
        told = self._world.said_by_first(error)
        if told is not None:
            raise told

    def _speed(self) -> Metrics:
        seconds = self._watch.lap(self._state.step)
        if seconds is None:
            return self._resources()
        left = self._schedule.total_steps - self._state.step
        return self._resources() | {
            "tokens_per_second": self._schedule.tokens_per_step / seconds,
            "utilisation": self._flops_per_step / seconds / self._peak_flops,
            "seconds_left": left * seconds,
        }

    def _resources(self) -> Metrics:
        return {"memory_gib": memory_gib(self._world.device), "workers": self._world.size}
