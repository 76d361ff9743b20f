"""What the workers do next: go on, save, or stop. They agree on it between steps, because none can do it alone."""

import time
from collections.abc import Callable
from enum import IntEnum

from pipeline.training.world import World

CONTROL_STEPS = 8
"""Steps between two agreements where there are several workers and steps are fast: each is a message between hosts."""
SLOW_STEP_SECONDS = 0.5
"""Where steps take longer, the workers agree at each: a notice of 30 s must be enough for a checkpoint."""
CONTROL_SECONDS = 0.5
"""Seconds between two looks at the stop request, which may lie on a shared file system."""


class Command(IntEnum):
    """What comes next, in the order of urgency."""

    CONTINUE = 0
    CHECKPOINT = 1
    STOP = 2


class Control:
    """One worker's part in the agreements; all workers make it, and call `command`, at the same steps.

    Args:
        world: The workers.
        step: Optimizer steps done.
        checkpoint_minutes: Minutes between two checkpoints, at most.
        stop_requested: Asked now and then on every worker; True on any of them is the wish to stop.
    """

    def __init__(self, world: World, step: int, checkpoint_minutes: float, stop_requested: Callable[[], bool]) -> None:
        self._world, self._seconds, self._stop_requested = world, 60 * checkpoint_minutes, stop_requested
        self._saved = self._looked = self._agreed = time.monotonic()
        self._agreed_step, self._next_step = step, step + 1

    def command(self, step: int) -> Command:
        """Returns what the workers do after `step`: the most urgent wish of all of them."""
        if step < self._next_step:
            return Command.CONTINUE
        now = time.monotonic()
        slow = (now - self._agreed) / (step - self._agreed_step) > SLOW_STEP_SECONDS
        wish, slow_for_one = self._world.all_reduce_max(self._wish(now), slow)
        self._agreed, self._agreed_step = now, step
        self._next_step = step + (1 if slow_for_one or self._world.size == 1 else CONTROL_STEPS)
        return Command(wish)

    def saved(self) -> None:
        """Counts the time to the next checkpoint from now."""
        self._saved = time.monotonic()

    def _wish(self, now: float) -> Command:
        if now - self._looked >= CONTROL_SECONDS:
            self._looked = now
            if self._stop_requested():
                return Command.STOP
        return Command.CHECKPOINT if now - self._saved >= self._seconds else Command.CONTINUE
