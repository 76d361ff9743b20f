import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.methods.trajectory_transformer.objective import TokenObjective
from pipeline.progress import Progress
from pipeline.training.display import Display
from tests.training.tasks import make_task, run

LINE: dict[str, Any] = {
    "kind": "step",
    "step": 100,
    "epoch": 0.5,
    "loss": 1.23456,
    "learning_rate": 6e-4,
    "gradient_norm": 0.4567,
    "failed_checkpoints": 0,
    "tokens_per_second": 45_120.4,
    "utilisation": 0.3125,
    "input_share": 0.021,
    "seconds_left": 130.0,
    "memory_gib": 1.2345,
    "workers": 1,
    **{f"loss_{kind}": 1.0 + index for index, kind in enumerate(("observation", "action", "reward", "value"))},
    **{f"accuracy_{kind}": 0.5 for kind in ("observation", "action", "reward")},
    "accuracy_value": None,
}
HELD_OUT: dict[str, Any] = {f"validation_{name}": 0.75 for name in LINE if name.startswith(("loss", "accuracy"))}
FACTS = "lr 0.0006 · gradient norm 0.457 · 45,120 tokens/s · MFU 31.2 % · input 2.1 % · 1.23 GiB"
LOSSES = "loss     observation 1 · action 2 · reward 3 · value 4"
ACCURACIES = "accuracy observation 50.0 % · action 50.0 % · reward 50.0 % · value -"


def epoch(number: int, **changes: Any) -> dict[str, Any]:
    return {**LINE, **HELD_OUT, "kind": "epoch", "epoch": number, "step": 200 * number, **changes}


class Scene:
    """A display of what is written into a file.

    Attributes:
        path: The metrics.
    """

    def __init__(self, path: Path, reported: int = 0, before: list[dict[str, Any]] | None = None) -> None:
        self.path, self._stream = path, io.StringIO()
        self.write(*(before or []))
        self._progress = Progress("train", total=1000, unit="steps", stream=self._stream)
        # So that every update is printed.
        self._progress._started = self._progress._printed = -1e9
        self.display = Display(self._progress, path, TokenObjective.measures, 5, reported)

    def write(self, *lines: dict[str, Any], anew: bool = False) -> None:
        text = "".join(json.dumps(line) + "\n" for line in lines)
        if anew:
            other = self.path.with_suffix(".new")
            other.write_text(text)
            other.replace(self.path)
        else:
            with self.path.open("a") as file:
                file.write(text)

    def printed(self) -> list[str]:
        """Refreshes the display and returns the rows that this printed."""
        self._progress._printed = -1e9
        before = self._stream.tell()
        self.display.refresh()
        return self._stream.getvalue()[before:].splitlines()


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "metrics.jsonl")


def test_a_line_of_steps_is_the_progress_with_all_its_numbers(scene: Scene) -> None:
    scene.write(LINE)
    progress = "train     100/1,000 steps · 2 min 10 s left · epoch 0.5 · loss 1.235"
    assert scene.printed() == [" · ".join([progress, FACTS, LOSSES.replace("     ", " "), ACCURACIES])]


def test_an_epoch_leaves_some_rows(scene: Scene) -> None:
    scene.write(epoch(1))
    assert scene.printed() == [
        f"train     epoch 1/5 · step 200 · loss 1.235 · validation loss 0.75 · {FACTS} · 2 min 10 s left",
        "          loss     observation 1 (0.75) · action 2 (0.75) · reward 3 (0.75) · value 4 (0.75)",
        "          accuracy observation 50.0 % (75.0 %) · action 50.0 % (75.0 %) · reward 50.0 % (75.0 %) · "
        "value - (75.0 %)",
    ]


def test_no_epoch_is_missed_however_seldom_one_looks(scene: Scene) -> None:
    scene.write(LINE, epoch(1), {**LINE, "step": 300}, epoch(2), {**LINE, "step": 500})
    rows = scene.printed()
    assert [row.split(" · ")[0] for row in rows if "epoch " in row and "/5" in row] == [
        "train     epoch 1/5",
        "train     epoch 2/5",
    ]
    assert scene.display.awaited == "steps after 500"
    assert scene.printed() == []


def test_without_a_speed_or_held_out_episodes_they_are_left_out(scene: Scene) -> None:
    names = ("tokens_per_second", "utilisation", "input_share", "seconds_left")
    scene.write({**LINE, "kind": "epoch", "epoch": 1, "step": 200, **dict.fromkeys(names)})
    assert (
        scene.printed()[0] == "train     epoch 1/5 · step 200 · loss 1.235 · lr 0.0006 · gradient norm 0.457 · 1.23 GiB"
    )


def test_checkpoints_that_could_not_be_written_are_told(scene: Scene) -> None:
    scene.write({**LINE, "failed_checkpoints": 2})
    assert "2 checkpoints FAILED" in scene.printed()[0]


def test_what_an_earlier_run_showed_is_not_shown_again_but_what_is_done_again_is(tmp_path: Path) -> None:
    """The run that is continued had reported epoch 3 after the checkpoint that it is continued from."""
    scene = Scene(tmp_path / "metrics.jsonl", reported=2, before=[epoch(1), epoch(2), epoch(3)])
    assert scene.printed() == []
    scene.write(epoch(1), epoch(2), anew=True)
    assert not [row for row in scene.printed() if "/5" in row]
    scene.write(epoch(3))
    assert scene.printed()[0].startswith("train     epoch 3/5 · step 600")
    # A worker is lost, and the epoch done a third time.
    scene.write(epoch(1), epoch(2), anew=True)
    scene.write(epoch(3), epoch(4))
    assert [row.split(" · ")[0] for row in scene.printed() if "/5" in row] == ["train     epoch 4/5"]


def refuse(_path: Path) -> None:
    raise OSError(116, "Stale file handle")


def test_metrics_that_cannot_be_read_for_a_while_are_waited_for(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.write(LINE)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", refuse)
        assert not scene.display.refresh()
        assert "metrics.jsonl to be readable ([Errno 116] Stale file handle)" in scene.display.awaited
    assert scene.display.refresh()
    assert scene.display.awaited == "steps after 100"


def test_metrics_whose_handle_went_stale_are_opened_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an open file of a network file system does whose server came back with another one."""
    scene.write(LINE)
    assert scene.display.refresh()
    stale, look = scene.display._tail._file, os.fstat
    assert stale is not None

    def refuse_stale(number: int) -> os.stat_result:
        if not stale.closed:
            raise OSError(116, "Stale file handle")
        return look(number)

    monkeypatch.setattr(os, "fstat", refuse_stale)
    scene.write({**LINE, "step": 200})
    assert not scene.display.refresh()
    assert "to be readable ([Errno 116] Stale file handle)" in scene.display.awaited
    assert scene.display.refresh()
    assert scene.display.awaited == "steps after 200"


def test_what_could_not_be_read_is_forgotten_once_it_can_be(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.write(LINE)
    assert scene.display.refresh()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", refuse)
        assert not scene.display.refresh()
    assert not scene.display.refresh()  # no new line, but no error either
    assert scene.display.awaited == "steps after 100"


def test_every_line_of_a_training_can_be_shown(tmp_path: Path) -> None:
    training = make_task(tmp_path / "task")
    scene = Scene(training.task.metrics)
    run(training)
    rows = scene.printed()
    assert [row.split(" · ")[0] for row in rows if "/3" in row or "/5" in row] == [
        f"train     epoch {number}/5" for number in (1, 2, 3)
    ]
