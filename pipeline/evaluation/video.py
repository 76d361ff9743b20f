"""Films episodes: the environment's picture, and beside it the rewards so far and those that the plan promises.

Frames go straight to an encoder process, so a long episode needs no memory. What cannot be filmed is said once, the
episode goes on without a film, and a note takes the film's place, so that nobody tries again and again.
"""

import logging
import math
import os
import subprocess
import sys
from collections import deque
from collections.abc import Generator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from pipeline.acting import Decision
from pipeline.configuration import write_text_atomically
from pipeline.evaluation.rollout import Environment

SIDE = 320
"""Pixels of the picture and of the curve beside it; a multiple of 16, as the codec wants."""

PAST_STEPS = 60
"""Steps of the past that the curve shows."""

PROBE_SECONDS = 60.0
"""How long a backend may take to make a context; it takes about a second."""

_PAPER, _INK, _FAINT, _PLAN = "#ffffff", "#22272e", "#d0d5dc", "#3f6fd8"

_PROBE = "import mujoco; context = mujoco.GLContext(16, 16); context.make_current()"

_log = logging.getLogger(__name__)


def choose_rendering_backend() -> str | None:
    """Sets MUJOCO_GL to what can draw without a display, egl before osmesa, unless it is set already.

    Each is tried in a process of its own: a backend that failed cannot be exchanged for another in the same process.

    Returns:
        The backend; None where neither works, which is left to MuJoCo.
    """
    if "MUJOCO_GL" in os.environ:
        return os.environ["MUJOCO_GL"]
    for backend in ("egl", "osmesa"):
        if _draws(backend):
            os.environ["MUJOCO_GL"] = backend
            return backend
    return None


def _draws(backend: str) -> bool:
    command, environment = [sys.executable, "-c", _PROBE], {**os.environ, "MUJOCO_GL": backend}
    try:
        subprocess.run(command, env=environment, capture_output=True, timeout=PROBE_SECONDS, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):  # broken drivers hang, too
        return False
    return True


def was_filmed(path: Path) -> bool:
    """Returns whether a film is there, or the note that it could not be made."""
    return path.exists() or _note(path).exists()


def _note(path: Path) -> Path:
    return path.with_suffix(".not-filmed.txt")


class VideoRecorder:
    """Films one episode; an `EpisodeRecorder`.

    Args:
        path: The film, .mp4; it appears when the episode has ended. Where it could not be made, a text with the reason
            appears instead.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.name}.partial")
        self._curve = RewardCurve()
        self._encoder: Generator[None, Any, None] | None = None
        self._failure = ""

    def record(self, environment: Environment, decision: Decision, reward: float) -> None:
        """Adds a frame."""
        self._curve.add(None if decision.plan is None else decision.plan.rewards, reward)
        if self._failure:
            return
        try:
            self._add_frame(environment)
        except Exception as error:  # drivers and encoders raise anything; the episode itself is well
            # The encoder's own words go on for many lines, with its whole command.
            self._failure = f"{type(error).__name__}: {error}".partition("\n")[0]

    def close(self) -> None:
        """Ends the film, or says why there is none."""
        try:
            if self._encoder is None:
                self._failure = self._failure or "no step was made"
            else:
                self._encoder.close()
            if not self._failure:
                self._partial.replace(self._path)
        except OSError as error:
            self._failure = f"the encoder wrote nothing ({error})"
        if self._failure:
            self._give_up()

    def _add_frame(self, environment: Environment) -> None:
        picture = environment.render()
        if not isinstance(picture, np.ndarray):
            raise TypeError(f"the environment drew {type(picture).__name__} and not an array of pixels")
        if self._encoder is None:
            self._encoder = self._start(environment.metadata.get("render_fps") or 30)
        fitted = ImageOps.pad(Image.fromarray(picture), (SIDE, SIDE), color=_PAPER)
        self._encoder.send(np.concatenate([np.asarray(fitted), self._curve.draw()], axis=1))

    def _start(self, frames_per_second: float) -> Generator[None, Any, None]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # The encoder would write into whatever it links to.
        self._partial.unlink(missing_ok=True)
        encoder: Generator[None, Any, None] = imageio_ffmpeg.write_frames(
            str(self._partial), (2 * SIDE, SIDE), fps=frames_per_second, output_params=["-f", "mp4"]
        )
        encoder.send(None)
        return encoder

    def _give_up(self) -> None:
        told = (
            f"{self._path.name} is not filmed: {self._failure}. Without a display MuJoCo needs libegl1 and "
            "libegl-mesa0 (MUJOCO_GL=egl) or libosmesa6 (MUJOCO_GL=osmesa), other environments what their error names. "
            f"The evaluation goes on; remove {_note(self._path)} to try again."
        )
        _log.warning("%s", told)
        try:
            self._partial.unlink(missing_ok=True)
            write_text_atomically(_note(self._path), told + "\n")
        except OSError as error:  # a full disk, perhaps what ended the film too
            _log.warning("%s cannot be written: %s", _note(self._path), error)


class RewardCurve:
    """The rewards of the last steps as a line, the current plan's as a second one that goes on into the future."""

    def __init__(self) -> None:
        self._rewards: deque[float] = deque(maxlen=PAST_STEPS)
        self._plan: NDArray[np.float64] = np.empty(0)
        self._planned_ago = 0
        self._low, self._high = math.inf, -math.inf
        self._total, self._steps = 0.0, 0

    def add(self, plan: NDArray[np.float64] | None, reward: float) -> None:
        """Takes the reward of a step, and the rewards (H,) that a plan made at this step promised from it on."""
        self._rewards.append(reward)
        self._total, self._steps, self._planned_ago = self._total + reward, self._steps + 1, self._planned_ago + 1
        if plan is not None:
            self._plan, self._planned_ago = plan, 0
        self._low = min(self._low, reward, *self._plan)
        self._high = max(self._high, reward, *self._plan)

    def draw(self) -> NDArray[np.uint8]:
        """Returns the picture (SIDE, SIDE, 3)."""
        image = Image.new("RGB", (SIDE, SIDE), _PAPER)
        pen = ImageDraw.Draw(image)
        now = len(self._rewards) - 1
        width = max(PAST_STEPS + len(self._plan), 1)
        pen.line([self._point(now, self._low, width), self._point(now, self._high, width)], fill=_FAINT)
        past = [self._point(i, reward, width) for i, reward in enumerate(self._rewards)]
        start = now - self._planned_ago
        promised = [self._point(start + i, reward, width) for i, reward in enumerate(self._plan)]
        for points, colour in ((promised, _PLAN), (past, _INK)):
            pen.line(points, fill=colour, width=2)
        pen.text((12, 8), f"step {self._steps}   return {self._total:.1f}", fill=_INK)
        pen.text((12, 24), "reward", fill=_INK)
        pen.text((60, 24), "planned reward" if len(self._plan) else "", fill=_PLAN)
        pen.text((12, 44), f"{self._high:.3g}", fill=_INK)
        pen.text((12, SIDE - 20), f"{self._low:.3g}", fill=_INK)
        return np.asarray(image)

    def _point(self, step: float, reward: float, width: int) -> tuple[float, float]:
        """Returns the pixel of a reward; the newest past step stands where the future begins."""
        span = self._high - self._low or 1.0
        return 12 + (SIDE - 24) * step / width, SIDE - 24 - (SIDE - 88) * (reward - self._low) / span
