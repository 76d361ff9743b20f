import re
from pathlib import Path

import pytest
import torch

import pipeline.training.loop
from pipeline.errors import CheckpointError, StorageError, TrainingDivergedError
from pipeline.training import storage
from pipeline.training.checkpoint import last_checkpoint, list_checkpoints, load_checkpoint, read_info
from pipeline.training.metrics import read_metrics
from tests.training.tasks import MODEL, TRAINING, curve, make_loop, make_task, run


@pytest.fixture(autouse=True)
def ask_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.training.loop, "CONTROL_SECONDS", 0.0)


class StopAfter:
    """Asks to stop after some questions."""

    def __init__(self, questions: int) -> None:
        self.left = questions

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


def test_a_run_that_is_stopped_again_and_again_has_the_same_curve_to_the_bit(tmp_path: Path) -> None:
    straight, broken = make_task(tmp_path / "straight"), make_task(tmp_path / "broken")
    assert run(straight) == "finished"
    for questions in (7, 1, 9, 4):
        assert run(broken, stop_requested=StopAfter(questions)) == "stopped"
    assert run(broken) == "finished"
    assert curve(broken.metrics) == curve(straight.metrics)
    ours, theirs = (load_checkpoint(list_checkpoints(task.checkpoints)[-1]).model for task in (broken, straight))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_the_curve_has_each_reported_step_once(tmp_path: Path) -> None:
    task = make_task(tmp_path)
    run(task)
    lines = read_metrics(task.metrics)
    assert [line["step"] for line in lines if line["kind"] == "step"] == list(range(5, 36, 5))
    assert [line["step"] for line in lines if line["kind"] == "epoch"] == [12, 24, 36]
    assert [line["epoch"] for line in lines if line["kind"] == "epoch"] == [1, 2, 3]
    assert {"validation_loss", "validation_loss_reward", "validation_accuracy_action"} <= lines[-1].keys()
    assert {"tokens_per_second", "utilisation", "memory_gib", "seconds_left"} <= lines[0].keys()


def test_the_loss_falls(tmp_path: Path) -> None:
    task = make_task(tmp_path, TRAINING.model_copy(update={"epochs": 10}))
    run(task)
    losses = [line["loss_observation"] for line in read_metrics(task.metrics) if line["kind"] == "epoch"]
    assert losses[-1] < 0.8 * losses[0]


def test_checkpoints_come_by_the_clock_inside_an_epoch(tmp_path: Path) -> None:
    task = make_task(tmp_path, TRAINING.model_copy(update={"checkpoint_minutes": 1e-9}))
    run(task, stop_requested=StopAfter(5))
    assert [folder.name[-2:] for folder in list_checkpoints(task.checkpoints)] == ["05"]
    assert read_info(list_checkpoints(task.checkpoints)[0]).validation_loss is None


def test_accumulation_changes_nothing_but_the_order_of_sums(tmp_path: Path) -> None:
    model = MODEL.model_copy(update={"dropout": 0.0})
    whole = make_task(tmp_path / "whole", model=model)
    parts = make_task(tmp_path / "parts", TRAINING.model_copy(update={"accumulation_steps": 3}), model)
    run(whole)
    run(parts)
    losses = [[line["loss"] for line in read_metrics(task.metrics)] for task in (whole, parts)]
    # float32 sums in another order, carried on through 36 steps.
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_nan_stops_the_run_and_names_the_last_good_checkpoint(tmp_path: Path) -> None:
    task = make_task(tmp_path)
    loop, windows, validation = make_loop(task, stop_requested=StopAfter(6))
    loop.run(windows, validation)
    good = last_checkpoint(task.checkpoints)
    loop, windows, validation = make_loop(task)
    with torch.no_grad():
        loop._step.model.head.weight[0, 0, 0] = torch.nan
    with pytest.raises(TrainingDivergedError, match=rf"at step 10: the loss is nan; .*last good checkpoint is {good}"):
        loop.run(windows, validation)
    assert last_checkpoint(task.checkpoints) == good


def test_divergence_advises_what_this_run_may_still_change(tmp_path: Path) -> None:
    task = make_task(tmp_path)
    loop, windows, validation = make_loop(task)
    with torch.no_grad():
        loop._step.model.head.weight[0, 0, 0] = torch.nan
    with pytest.raises(TrainingDivergedError) as caught:
        loop.run(windows, validation)
    same_name, another_name = str(caught.value).split("; else train under another --name ")
    fixed = task.training.identity().keys()
    for advice, names in ((same_name, ["spike_factor"]), (another_name, ["learning_rate", "gradient_clip"])):
        assert re.findall(r"training\.(\w+)", advice) == names
        assert [name in fixed for name in names] == [advice is another_name] * len(names)


def test_a_model_that_broke_since_the_last_line_is_not_saved(tmp_path: Path) -> None:
    task = make_task(tmp_path)
    loop, windows, validation = make_loop(task, stop_requested=StopAfter(2))
    with torch.no_grad():
        loop._step.model.head.weight[0, 0, 0] = torch.nan
    with pytest.raises(TrainingDivergedError, match=r"at step 2: .*There is no checkpoint yet"):
        loop.run(windows, validation)
    assert list_checkpoints(task.checkpoints) == []


def test_storage_that_fails_in_the_end_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(tmp_path)
    monkeypatch.setattr(storage, "ATTEMPTS", 1)
    loop, windows, validation = make_loop(task)
    task.checkpoints.parent.joinpath("checkpoints").write_text("a file")
    with pytest.raises(StorageError, match="could not be written"):
        loop.run(windows, validation)


def test_a_run_starts_from_the_weights_of_another(tmp_path: Path) -> None:
    first = make_task(tmp_path / "first")
    run(first)
    source = list_checkpoints(first.checkpoints)[-1]
    second = make_task(tmp_path / "second", TRAINING.model_copy(update={"init_from": str(source)}))
    ours = make_loop(second)[0]._step.model
    theirs = load_checkpoint(source).model
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    first = make_task(tmp_path / "first")
    run(first, stop_requested=StopAfter(1))
    source = str(list_checkpoints(first.checkpoints)[-1])
    training = TRAINING.model_copy(update={"init_from": source})
    task = make_task(tmp_path / "second", training, MODEL.model_copy(update={"width": 32}))
    with pytest.raises(CheckpointError, match=r"training\.init_from is .* a model of .*width=16.*expected .*width=32"):
        make_loop(task)
    task = make_task(tmp_path / "third", TRAINING.model_copy(update={"init_from": "nowhere"}))
    with pytest.raises(CheckpointError, match=r"training\.init_from is 'nowhere', which does not exist"):
        make_loop(task)
