import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pipeline.training.control
import pipeline.training.saver
from pipeline.beside import Work
from pipeline.errors import CheckpointError, StorageError, TrainingDivergedError
from pipeline.methods.checkpoint import load_checkpoint
from pipeline.training import storage
from pipeline.training.checkpoint import (
    CheckpointInfo,
    best_checkpoint,
    last_checkpoint,
    list_checkpoints,
    read_info,
    write_checkpoint,
)
from pipeline.training.metrics import read_metrics
from pipeline.training.recorder import HeldOut, Recorder
from pipeline.training.state import TrainingState
from pipeline.training.step import StepResult, TrainStep
from pipeline.training.validation import Validation
from pipeline.training.windows import Windows, WindowSource
from tests.training.tasks import MODEL, TRAINING, curve, make_loop, make_task, run


@pytest.fixture(autouse=True)
def ask_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.training.control, "CONTROL_SECONDS", 0.0)


class StopAfter:
    """Asks to stop after some questions."""

    def __init__(self, questions: int) -> None:
        self.left = questions

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


class Killed(BaseException):
    """Stands for SIGKILL: nothing that comes after it is done in order."""


class KilledWindows:
    """Windows whose worker is killed before some step."""

    def __init__(self, windows: WindowSource, step: int) -> None:
        self._windows, self._step = windows, step

    def batch(self, step: int) -> Windows:
        if step == self._step:
            raise Killed
        return self._windows.batch(step)


class KilledValidation:
    """A validation whose worker is killed at one of its calls."""

    def __init__(self, validation: Validation, call: int) -> None:
        self._validation, self.left = validation, call

    def sums(self, step: TrainStep) -> Tensor:
        self.left -= 1
        if not self.left:
            raise Killed
        return self._validation.sums(step)


class MadeUpValidation:
    """A validation of given losses."""

    def __init__(self, *losses: float) -> None:
        self._losses = list(losses)

    def sums(self, step: TrainStep) -> Tensor:
        sums_M2 = torch.zeros(len(step.objective.measures), 2)
        sums_M2[0] = torch.tensor([self._losses.pop(0), 1.0])
        return sums_M2


def test_a_run_that_is_stopped_again_and_again_has_the_same_curve_to_the_bit(tmp_path: Path) -> None:
    straight, broken = make_task(tmp_path / "straight"), make_task(tmp_path / "broken")
    run(straight)
    stopped_at = [run(broken, stop_requested=StopAfter(questions)).step for questions in (7, 1, 9, 4)]
    assert stopped_at == [7, 8, 17, 21]
    run(broken)
    assert curve(broken.task.metrics) == curve(straight.task.metrics)
    ours, theirs = (
        load_checkpoint(list_checkpoints(training.task.checkpoints)[-1]).model for training in (broken, straight)
    )
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_the_curve_has_each_reported_step_once(tmp_path: Path) -> None:
    training = make_task(tmp_path)
    run(training)
    lines = read_metrics(training.task.metrics)
    assert [line["step"] for line in lines if line["kind"] == "step"] == list(range(5, 36, 5))
    assert [line["step"] for line in lines if line["kind"] == "epoch"] == [12, 24, 36]
    assert [line["epoch"] for line in lines if line["kind"] == "epoch"] == [1, 2, 3]
    assert {"validation_loss", "validation_loss_reward", "validation_accuracy_action"} <= lines[-1].keys()
    for line in lines:
        assert {"tokens_per_second", "utilisation", "input_share", "memory_gib", "seconds_left"} <= line.keys()
        assert line["tokens_per_second"] > 0
        assert 0 < line["input_share"] < 1
        assert line["failed_checkpoints"] == 0


def test_the_loss_falls(tmp_path: Path) -> None:
    training = make_task(tmp_path, TRAINING.model_copy(update={"epochs": 10}))
    run(training)
    losses = [line["loss_observation"] for line in read_metrics(training.task.metrics) if line["kind"] == "epoch"]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(("minutes", "saved"), [(1e-9, ["step-000000007"]), (1e9, [])])
def test_checkpoints_come_by_the_clock_inside_an_epoch(tmp_path: Path, minutes: float, saved: list[str]) -> None:
    training = make_task(tmp_path, TRAINING.model_copy(update={"checkpoint_minutes": minutes}))
    loop, windows, validation = make_loop(training)
    with pytest.raises(Killed):
        loop.run(KilledWindows(windows, 7), validation)
    assert [folder.name for folder in list_checkpoints(training.task.checkpoints)] == saved
    assert all(read_info(folder).validation_loss is None for folder in list_checkpoints(training.task.checkpoints))


@pytest.mark.parametrize(("keep_best", "kept"), [(1, [24, 48]), (2, [24, 36, 48])])
def test_the_best_checkpoints_and_the_last_stay(tmp_path: Path, keep_best: int, kept: list[int]) -> None:
    training = make_task(tmp_path, TRAINING.model_copy(update={"epochs": 4, "keep_best": keep_best}))
    loop, windows, _ = make_loop(training)
    loop.run(windows, MadeUpValidation(0.5, 0.2, 0.3, 0.4))  # type: ignore[arg-type]
    assert [read_info(folder).step for folder in list_checkpoints(training.task.checkpoints)] == kept


class MadeUpMeasure:
    """A validation of given values of one measure, whose loss gets better all the time."""

    def __init__(self, measure: str, *values: float) -> None:
        self._measure, self._values, self._loss = measure, list(values), 9.0

    def sums(self, step: TrainStep) -> Tensor:
        self._loss -= 1.0
        sums_M2 = torch.ones(len(step.objective.measures), 2)
        sums_M2[0, 0] = self._loss
        sums_M2[step.objective.measures.index(self._measure), 0] = self._values.pop(0)
        return sums_M2


@pytest.mark.parametrize(
    ("measure", "keep_best", "kept"),
    [("loss_action", 1, [24, 48]), ("loss_action", 2, [24, 36, 48]), ("accuracy_action", 1, [12, 48])],
)
@pytest.mark.parametrize("stopped", [False, True])
def test_the_best_by_the_chosen_measure_stay_also_where_a_run_goes_on(
    tmp_path: Path, measure: str, keep_best: int, kept: list[int], stopped: bool
) -> None:
    config = {"epochs": 4, "keep_best": keep_best, "select_by": measure}
    training = make_task(tmp_path, TRAINING.model_copy(update=config))
    validation = MadeUpMeasure(measure, 0.5, 0.2, 0.3, 0.4)
    if stopped:
        loop, windows, _ = make_loop(training, stop_requested=StopAfter(30))
        loop.run(windows, validation)  # type: ignore[arg-type]
        assert loop.step == 30
    loop, windows, _ = make_loop(training)
    loop.run(windows, validation)  # type: ignore[arg-type]
    infos = [read_info(folder) for folder in list_checkpoints(training.task.checkpoints)]
    assert [info.step for info in infos] == kept
    assert {info.selected_by.measure for info in infos} == {measure}
    assert read_info(best_checkpoint(training.task.checkpoints)).step == kept[0]
    # A ratio of float64 sums of float32 numbers.
    assert infos[-1].selected_by.value == pytest.approx(0.4)
    assert infos[-1].validation_loss == 5.0


def test_a_selecting_measure_that_is_not_finite_is_no_score(tmp_path: Path) -> None:
    training = make_task(tmp_path, TRAINING.model_copy(update={"select_by": "loss_action"}))
    loop, windows, _ = make_loop(training)
    with pytest.raises(TrainingDivergedError, match=r"at step 24: the validation loss_action is nan; .*-000000012\."):
        loop.run(windows, MadeUpMeasure("loss_action", 0.5, float("nan")))  # type: ignore[arg-type]
    steps = [read_info(folder).step for folder in list_checkpoints(training.task.checkpoints)]
    assert steps == [12]


class TestEndOfAnEpoch:
    @pytest.mark.parametrize("epoch", [1, 2, 3])
    def test_a_run_that_is_killed_while_it_validates_has_the_same_curve_to_the_bit(
        self, tmp_path: Path, epoch: int
    ) -> None:
        straight, broken = make_task(tmp_path / "straight"), make_task(tmp_path / "broken")
        run(straight)
        loop, windows, validation = make_loop(broken)
        with pytest.raises(Killed):
            loop.run(windows, KilledValidation(validation, epoch))
        info = read_info(list_checkpoints(broken.task.checkpoints)[-1])
        assert (info.step, info.epoch, info.validation_loss) == (12 * epoch, epoch - 1, None)
        loop = run(broken)
        assert curve(broken.task.metrics) == curve(straight.task.metrics)
        infos = [read_info(list_checkpoints(training.task.checkpoints)[-1]) for training in (broken, straight)]
        assert infos[0] == infos[1]
        assert infos[0].epoch == 3

    def test_a_stop_at_an_epochs_end_does_not_wait_for_the_validation(self, tmp_path: Path) -> None:
        straight, broken = make_task(tmp_path / "straight"), make_task(tmp_path / "broken")
        run(straight)
        loop, windows, validation = make_loop(broken, stop_requested=StopAfter(12))
        loop.run(windows, KilledValidation(validation, 1))
        assert read_info(list_checkpoints(broken.task.checkpoints)[-1]).epoch == 0
        run(broken)
        assert curve(broken.task.metrics) == curve(straight.task.metrics)

    def test_a_run_that_is_killed_between_an_epochs_line_and_its_checkpoint_reports_it_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        straight, broken = make_task(tmp_path / "straight"), make_task(tmp_path / "broken")
        run(straight)
        save = Recorder.checkpoint

        def save_or_die(recorder: Recorder, state: TrainingState, step: TrainStep, held_out: HeldOut) -> None:
            if held_out:
                raise Killed
            save(recorder, state, step, held_out)

        with monkeypatch.context() as patch:
            patch.setattr(Recorder, "checkpoint", save_or_die)
            with pytest.raises(Killed):
                run(broken)
        assert curve(broken.task.metrics)[-1]["kind"] == "epoch"
        run(broken)
        assert curve(broken.task.metrics) == curve(straight.task.metrics)


def test_accumulation_changes_nothing_but_the_order_of_sums(tmp_path: Path) -> None:
    model = MODEL.model_copy(update={"dropout": 0.0})
    whole = make_task(tmp_path / "whole", settings=model)
    parts = make_task(tmp_path / "parts", TRAINING.model_copy(update={"accumulation_steps": 3}), model)
    run(whole)
    run(parts)
    losses = [[line["loss"] for line in read_metrics(training.task.metrics)] for training in (whole, parts)]
    # float32 sums in another order, carried on through 36 steps.
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_nan_stops_the_run_and_names_the_last_good_checkpoint(tmp_path: Path) -> None:
    training = make_task(tmp_path)
    loop, windows, validation = make_loop(training, stop_requested=StopAfter(6))
    loop.run(windows, validation)
    good = last_checkpoint(training.task.checkpoints)
    loop, windows, validation = make_loop(training)
    with torch.no_grad():
        loop._step.model.head.weight[0, 0, 0] = torch.nan
    with pytest.raises(TrainingDivergedError, match=rf"at step 10: the loss is nan; .*last good checkpoint is {good}"):
        loop.run(windows, validation)
    assert last_checkpoint(training.task.checkpoints) == good


def test_divergence_advises_what_this_run_may_still_change(tmp_path: Path) -> None:
    training = make_task(tmp_path)
    loop, windows, validation = make_loop(training)
    with torch.no_grad():
        loop._step.model.head.weight[0, 0, 0] = torch.nan
    with pytest.raises(TrainingDivergedError) as caught:
        loop.run(windows, validation)
    same_name, another_name = str(caught.value).split("; else train under another --name ")
    fixed = training.task.training.identity().keys()
    for advice, names in ((same_name, ["spike_factor"]), (another_name, ["learning_rate", "gradient_clip"])):
        assert re.findall(r"training\.(\w+)", advice) == names
        assert [name in fixed for name in names] == [advice is another_name] * len(names)


def test_a_model_that_broke_since_the_last_line_is_not_saved(tmp_path: Path) -> None:
    training = make_task(tmp_path)
    loop, windows, validation = make_loop(training, stop_requested=StopAfter(2))
    with torch.no_grad():
        loop._step.model.head.weight[0, 0, 0] = torch.nan
    with pytest.raises(TrainingDivergedError, match=r"at step 2: .*There is no checkpoint yet"):
        loop.run(windows, validation)
    assert list_checkpoints(training.task.checkpoints) == []


def spoil(model: torch.nn.Module, factor: float = 30.0) -> None:
    """What a step that went wrong leaves: weights that predict nonsense."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= factor


class NoisyStep:
    """A step whose loss is five times what it is at one number."""

    def __init__(self, step: TrainStep, noisy: int) -> None:
        self._step, self._noisy = step, noisy

    def __call__(self, batch: Windows, number: int, learning_rate: float) -> StepResult:
        result = self._step(batch, number, learning_rate)
        if number == self._noisy - 1:
            result.sums[0, 0] *= 5
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)


@pytest.mark.parametrize(
    ("noisy", "left_out"),
    [
        (26, ["26"]),  # the first after a line: of itself it is a jump, in the mean of five steps it is none
        (36, []),  # the last of all, behind which no line is to come
    ],
)
def test_one_noisy_step_ends_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, noisy: int, left_out: list[str]
) -> None:
    """The clock asks for a checkpoint after every step."""
    training = make_task(tmp_path, TRAINING.model_copy(update={"checkpoint_minutes": 1e-9}))
    loop, windows, validation = make_loop(training)
    loop._step = NoisyStep(loop._step, noisy)  # type: ignore[assignment]
    loop.run(windows, validation)
    told = r"No checkpoint of step (\d+): in 1 steps since the last line the loss rose to .*The next line tells"
    assert re.findall(told, caplog.text) == left_out
    last = last_checkpoint(training.task.checkpoints)
    assert last is not None
    assert (read_info(last).step, read_info(last).epoch) == (36, 3)


def test_a_stop_after_a_noisy_step_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    straight, broken = make_task(tmp_path / "straight"), make_task(tmp_path / "broken")
    run(straight)
    run(broken, stop_requested=StopAfter(20))
    loop, windows, validation = make_loop(broken, stop_requested=StopAfter(1))
    loop._step = NoisyStep(loop._step, 21)  # type: ignore[assignment]
    loop.run(windows, validation)
    assert read_info(list_checkpoints(broken.task.checkpoints)[-1]).step == 20
    run(broken)
    assert curve(broken.task.metrics) == curve(straight.task.metrics)


def test_a_jump_between_two_lines_does_not_replace_the_good_checkpoint(tmp_path: Path) -> None:
    """The clock asks for checkpoints right after it; the next line tells that it lasts."""
    training = make_task(tmp_path, TRAINING.model_copy(update={"checkpoint_minutes": 1e-9}))

    def spoil_at(step: int) -> bool:
        if loop.step == step:
            spoil(loop._step.model)
        return False

    loop, windows, validation = make_loop(training, stop_requested=lambda: spoil_at(22))
    with pytest.raises(
        TrainingDivergedError, match=r"at step 25: the loss rose to .*last good checkpoint is .*-000000022"
    ):
        loop.run(windows, validation)
    steps = [read_info(folder).step for folder in list_checkpoints(training.task.checkpoints)]
    assert steps == [12, 22]


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_validation_loss_that_is_not_finite_is_no_score(tmp_path: Path, loss: float) -> None:
    training = make_task(tmp_path)
    loop, windows, _ = make_loop(training)
    told = rf"at step 24: the validation loss is {loss}; .*last good checkpoint is \S*step-000000012\."
    with pytest.raises(TrainingDivergedError, match=told):
        loop.run(windows, MadeUpValidation(0.5, loss))  # type: ignore[arg-type]
    assert [read_info(folder).validation_loss for folder in list_checkpoints(training.task.checkpoints)] == [0.5]
    assert [line["epoch"] for line in read_metrics(training.task.metrics) if line["kind"] == "epoch"] == [1]


class TestStorageThatFails:
    @pytest.fixture(autouse=True)
    def try_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(storage, "ATTEMPTS", 1)

    def test_while_the_training_goes_on_is_told_and_tried_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        training, steps = make_task(tmp_path), []

        def refuse_two_epochs(parent: Path, info: CheckpointInfo, *rest: Any) -> Path:
            steps.append(info.step)
            if info.step < 36:
                raise OSError(28, "No space left on device")
            return write_checkpoint(parent, info, *rest)

        monkeypatch.setattr(pipeline.training.saver, "write_checkpoint", refuse_two_epochs)
        run(training)
        assert steps == [12, 12, 24, 24, 36, 36]
        assert "No checkpoint of step 24: [Errno 28] No space left" in caplog.text
        assert [read_info(folder).step for folder in list_checkpoints(training.task.checkpoints)] == [36]
        failed = [line["failed_checkpoints"] for line in read_metrics(training.task.metrics) if line["kind"] == "step"]
        assert failed[:2] == [0, 0]
        assert failed[-1] == 4

    @pytest.mark.parametrize("stop_after", [5, 0])
    def test_in_the_end_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int) -> None:
        """Of the run, or where it was stopped in order."""
        training = make_task(tmp_path)
        loop, windows, validation = make_loop(training, stop_requested=StopAfter(stop_after))

        def refuse(*_: object) -> Path:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(pipeline.training.saver, "write_checkpoint", refuse)
        with pytest.raises(StorageError, match=rf"step {stop_after or 36} could not be written .*No space left"):
            loop.run(windows, validation)

    def test_before_the_first_step_is_an_error(self, tmp_path: Path) -> None:
        training = make_task(tmp_path)
        training.task.checkpoints.write_text("a file")
        with pytest.raises(StorageError, match="could not be written"):
            make_loop(training)


class TestStorageThatNeitherTakesNorRefuses:
    """As a network file system does that is mounted `hard` and whose server is away, while a checkpoint is written."""

    @pytest.fixture(autouse=True)
    def no_checkpoint_ends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ended = Work.ended

        def ends(work: Work[Any], _seconds: float) -> bool:
            return not work.what.startswith("Writing the checkpoint") and ended(work, 60)

        monkeypatch.setattr(Work, "ended", ends)

    def test_ends_the_run(self, tmp_path: Path) -> None:
        loop, windows, validation = make_loop(make_task(tmp_path))
        with pytest.raises(
            StorageError, match=r"^Writing the checkpoint of step 12 into \S+ has neither ended nor failed"
        ):
            loop.run(windows, validation)

    def test_does_not_hide_that_the_training_diverged(self, tmp_path: Path) -> None:
        def break_at(step: int) -> bool:
            if loop.step == step:
                spoil(loop._step.model, torch.nan)
            return False

        loop, windows, _ = make_loop(make_task(tmp_path), stop_requested=lambda: break_at(13))
        told = (
            r"at step 15: the loss is nan; .*Which checkpoint is the last good one is not known: Writing the checkpoint"
        )
        with pytest.raises(TrainingDivergedError, match=told):
            loop.run(windows, None)


class TestWhateverEndsTheLoop:
    def test_the_record_is_complete(self, tmp_path: Path) -> None:
        training = make_task(tmp_path, TRAINING.model_copy(update={"checkpoint_minutes": 1e-9}))
        loop, windows, validation = make_loop(training)
        with pytest.raises(Killed):
            loop.run(KilledWindows(windows, 7), validation)
        assert loop._recorder is not None
        assert loop._recorder._log._file.closed
        assert loop._recorder._saver._pending is None

    def test_what_fails_while_it_is_closed_does_not_hide_the_first_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse(_recorder: Recorder) -> None:
            raise StorageError("the disk is full")

        monkeypatch.setattr(Recorder, "close", refuse)
        loop, windows, validation = make_loop(make_task(tmp_path))
        with pytest.raises(Killed):
            loop.run(KilledWindows(windows, 7), validation)
        assert "The record could not be closed: the disk is full" in caplog.text


def test_a_run_starts_from_the_weights_of_another(tmp_path: Path) -> None:
    first = make_task(tmp_path / "first")
    run(first)
    source = list_checkpoints(first.task.checkpoints)[-1]
    second = make_task(tmp_path / "second", TRAINING.model_copy(update={"init_from": str(source)}))
    ours = make_loop(second)[0]._step.model
    theirs = load_checkpoint(source).model
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    first = make_task(tmp_path / "first")
    run(first, stop_requested=StopAfter(1))
    source = str(list_checkpoints(first.task.checkpoints)[-1])
    config = TRAINING.model_copy(update={"init_from": source})
    training = make_task(tmp_path / "second", config, MODEL.model_copy(update={"width": 32}))
    told = r"training\.init_from is .*, a model with other settings or data \(width: was 16, is 32\); expected the same"
    with pytest.raises(CheckpointError, match=told):
        make_loop(training)
    training = make_task(tmp_path / "third", TRAINING.model_copy(update={"init_from": "nowhere"}))
    with pytest.raises(CheckpointError, match=r"training\.init_from is 'nowhere', which does not exist"):
        make_loop(training)
