"""An environment that counts, so that a lost, doubled or reordered step shows."""

import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from pipeline.data.spaces import Spaces

ID = "tests.evaluation.counting:Counting-v0"


class Counting(gymnasium.Env[Any, Any]):
    """Observation: [step number, number of this episode]; reward: the action plus the step number.

    Episodes differ in length (by their seed), so that slots become free at different times.

    Args:
        length: Longest episode.
        seconds: Time that a step takes.
        raise_at: Step at which episodes of an odd number raise, None for never.
        not_finite: What episodes of an odd number return NaN for from their second step on, or "reset".
        raise_on_close: Raise when closed after an episode.
        kill_once: File that does not exist; the first process that makes a third step creates it and ends itself.
        kill_with: The signal that it ends itself by.
        kill_number: Number of the episode that always ends its process at its second step.
        hang_once: File that does not exist; the first process that makes a third step creates it and hangs.
        log: Folder that gets an empty file for each episode that is begun.
        pause_at: With `log`: episodes that may begin before the others wait for the file `open` in that folder.
        success: Report success at the last step of episodes of an even number.
        render_mode: Gymnasium's; the picture is as bright as the step's number, and twice as wide as high.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium's own form)

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(
        self,
        length: int = 8,
        seconds: float = 0.0,
        raise_at: int | None = None,
        not_finite: str | None = None,
        raise_on_close: bool = False,
        kill_once: str | None = None,
        kill_with: int = signal.SIGKILL,
        kill_number: int | None = None,
        hang_once: str | None = None,
        log: str | None = None,
        pause_at: int | None = None,
        success: bool = False,
        render_mode: str | None = None,
    ) -> None:
        self.render_mode = render_mode
        self._length, self._seconds, self._raise_at, self._success = length, seconds, raise_at, success
        self._not_finite, self._raise_on_close = not_finite, raise_on_close
        self._step, self._number = 0, 0
        self._kill_once, self._kill_number, self._hang_once = kill_once, kill_number, hang_once
        self._kill_with = kill_with
        self._log, self._pause_at = log, pause_at

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._step, self._number = 0, int(self.np_random.integers(100))
        self._ends = 1 + self._number % self._length
        if self._log:
            Path(self._log).mkdir(parents=True, exist_ok=True)
            self._pause(Path(self._log))
            (Path(self._log) / f"{seed}-{time.time_ns()}").touch()
        return self._observation(), {}

    def _pause(self, log: Path) -> None:
        if self._pause_at is None:
            return
        while len(list(log.iterdir())) >= self._pause_at and not (log / "open").exists():
            time.sleep(0.05)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._step += 1
        time.sleep(self._seconds)
        if self._raise_at == self._step and self._number % 2:
            raise RuntimeError("the simulation diverged")
        if self._step == 2 and self._number == self._kill_number:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._step == 3 and self._kill_once and not Path(self._kill_once).exists():
            Path(self._kill_once).touch()
            os.kill(os.getpid(), self._kill_with)
        if self._step == 3 and self._hang_once and not Path(self._hang_once).exists():
            Path(self._hang_once).touch()
            time.sleep(3600)
        ended = self._step >= self._ends
        info = {"success": ended and self._number % 2 == 0} if self._success else {}
        reward = math.nan if self._is_not_finite("reward") else float(action[0]) + self._step
        return self._observation(), reward, ended, False, info

    def render(self) -> Any:
        return np.full((40, 80, 3), 10 * self._step, dtype=np.uint8)

    def close(self) -> None:
        if self._raise_on_close and self._step:
            raise RuntimeError("the window is gone")

    def _observation(self) -> Any:
        first = math.nan if self._is_not_finite("observation") else self._step
        return np.array([first, self._number], dtype=np.float64)

    def _is_not_finite(self, what: str) -> bool:
        if self._number % 2 == 0:
            return False
        return self._not_finite == (what if self._step >= 2 else "reset")


# Named, not passed: Minari stores the registration, and cannot store a class.
gymnasium.register("Counting-v0", f"{__name__}:Counting", max_episode_steps=1000)

SPACES = Spaces.of(Counting.observation_space, Counting.action_space)
