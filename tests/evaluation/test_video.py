import logging
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest

from pipeline.acting import Decision, RandomPolicy
from pipeline.evaluation.rollout import EpisodeBatch, EpisodeStart
from pipeline.evaluation.video import SIDE, RewardCurve, VideoRecorder, choose_rendering_backend, was_filmed
from pipeline.planning.beam import Plan
from pipeline.records import EpisodeResult
from tests.evaluation.counting import SPACES, Counting


class Broken(Counting):
    def render(self) -> Any:
        raise RuntimeError("no display")


class Blank(Counting):
    def render(self) -> Any:
        return None


def filmed(path: Path, environment: Any) -> EpisodeResult:
    batch = EpisodeBatch(
        lambda _: environment, RandomPolicy(SPACES, 1), SPACES, "testing", 1.0, lambda _: VideoRecorder(path)
    )
    return batch.advance([EpisodeStart(0, seed=3)], seconds=60.0)[0]


def frames_of(path: Path) -> tuple[dict[str, Any], list[Any]]:
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    shape = (SIDE, 2 * SIDE, 3)
    return meta, [np.frombuffer(frame, dtype=np.uint8).reshape(shape) for frame in reader]


def test_a_film_has_a_frame_for_each_step_in_order(tmp_path: Path) -> None:
    path = tmp_path / "videos" / "episode.mp4"
    result = filmed(path, Counting(length=15))
    meta, frames = frames_of(path)
    assert (meta["fps"], len(frames)) == (10.0, result.length)
    assert result.length > 3
    brightness = [float(frame[SIDE // 2, : SIDE - 16].mean()) for frame in frames]
    assert brightness == pytest.approx([10 * (step + 1) for step in range(result.length)], abs=4)
    assert [entry.name for entry in path.parent.iterdir()] == ["episode.mp4"]


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        (Broken(), "RuntimeError: no display"),
        (Blank(), "TypeError: the environment drew NoneType and not an array of pixels"),
    ],
)
def test_what_cannot_be_drawn_is_said_once_and_the_episode_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, environment: Any, reason: str
) -> None:
    path = tmp_path / "episode.mp4"
    with caplog.at_level(logging.WARNING):
        result = filmed(path, environment)
    assert result.error == ""
    assert len(caplog.records) == 1
    assert "libegl1" in caplog.text
    assert re.search(f"episode.mp4 is not filmed: {reason}", caplog.text)
    assert [entry.name for entry in tmp_path.iterdir()] == ["episode.not-filmed.txt"]
    assert was_filmed(path), "the same command would try again for ever"


def encoder(source: str, tmp_path: Path) -> str:
    """An encoder program that does what the shell is told."""
    program = tmp_path / "ffmpeg"
    program.write_text(f"#!/bin/sh\n{source}\n")
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize("source", ["exit 1", "cat > /dev/null", None], ids=["dies", "writes nothing", "is missing"])
def test_an_encoder_that_fails_costs_the_film_and_not_the_episode(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, source: str | None
) -> None:
    program = "/no/such/ffmpeg" if source is None else encoder(source, tmp_path)
    monkeypatch.setattr(imageio_ffmpeg._io, "get_ffmpeg_exe", lambda: program)
    path = tmp_path / "videos" / "episode.mp4"
    result = filmed(path, Counting(length=15))
    assert (result.error, result.length) == ("", filmed(tmp_path / "other.mp4", Blank(length=15)).length)
    assert "episode.mp4 is not filmed: " in caplog.text
    assert [entry.name for entry in path.parent.iterdir()] == ["episode.not-filmed.txt"]


def test_an_episode_that_failed_at_its_start_is_not_filmed_again(tmp_path: Path) -> None:
    path = tmp_path / "episode.mp4"
    VideoRecorder(path).close()
    assert was_filmed(path)
    assert "no step was made" in (tmp_path / "episode.not-filmed.txt").read_text()


def test_an_episode_that_nobody_tried_to_film_counts_as_not_filmed(tmp_path: Path) -> None:
    assert not was_filmed(tmp_path / "episode.mp4")


def blue(picture: Any) -> Any:
    """Which pixels have the colour of the plan."""
    return (picture[..., 2] > 180) & (picture[..., 0] < 120)


def test_the_curve_shows_what_the_plan_promised_beyond_the_present() -> None:
    curve = RewardCurve()
    curve.add(None, 1.0)
    assert not blue(curve.draw()).any()
    curve.add(np.array([1.0, 5.0, 3.0]), 2.0)
    drawn = curve.draw()
    assert drawn.shape == (SIDE, SIDE, 3)
    line, black = blue(drawn)[50:].nonzero()[1], (drawn.max(axis=2) < 80)[60 : SIDE - 24].nonzero()[1]
    assert line.min() == pytest.approx(black.max(), abs=3), "the plan does not begin where the past ends"
    assert line.max() > black.max()


def test_a_backend_that_is_chosen_already_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "mine")
    assert choose_rendering_backend() == "mine"


@pytest.mark.parametrize(("hanging", "chosen"), [({"egl"}, "osmesa"), ({"egl", "osmesa"}, None)])
def test_a_backend_that_hangs_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, hanging: set[str], chosen: str | None
) -> None:
    def run(command: list[str], env: dict[str, str], timeout: float, **_: Any) -> None:
        if env["MUJOCO_GL"] in hanging:
            raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("MUJOCO_GL", "")  # so that monkeypatch takes away what is set below
    monkeypatch.delenv("MUJOCO_GL")
    assert choose_rendering_backend() == chosen


@pytest.mark.slow
def test_mujoco_is_filmed_where_it_can_draw_without_a_display(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gymnasium

    monkeypatch.setenv("MUJOCO_GL", "")  # so that monkeypatch takes away what is set below
    monkeypatch.delenv("MUJOCO_GL")
    backend = choose_rendering_backend()
    if backend is None:
        pytest.skip("neither EGL nor OSMesa is installed: MuJoCo cannot draw here")
    assert os.environ["MUJOCO_GL"] == backend
    environment = gymnasium.make("InvertedPendulum-v5", render_mode="rgb_array", max_episode_steps=3)
    environment.reset(seed=0)
    recorder = VideoRecorder(tmp_path / "episode.mp4")
    plan = Plan(np.zeros((2, 7)), np.zeros((2, 1)), np.ones(2), np.ones(2), 3.0)
    for _ in range(3):
        environment.step(np.zeros(1, dtype=np.float32))
        recorder.record(environment, Decision(np.zeros(1), 3.0, plan), 1.0)
    recorder.close()
    environment.close()
    _, frames = frames_of(tmp_path / "episode.mp4")
    assert len(frames) == 3
    assert frames[0][:, :SIDE].std() > 10, "the picture is empty"
