"""Any method trains, stops, resumes and comes back; what one training starts from must fit the other."""

from pathlib import Path

import pytest
import torch

import pipeline.training.control
from pipeline.data.config import DataConfig
from pipeline.errors import CheckpointError, ManifestError
from pipeline.methods.checkpoint import load_checkpoint
from pipeline.methods.registry import METHODS
from pipeline.methods.settings import MethodSettings
from pipeline.methods.training import MethodTraining
from pipeline.methods.trajectory_transformer.config import LossWeights
from pipeline.training.checkpoint import CheckpointInfo, last_checkpoint, write_checkpoint
from pipeline.training.metrics import read_metrics
from tests.data.in_memory import write_shards
from tests.methods.toy import ToyMethod, ToySettings
from tests.training.tasks import MODEL, TRAINING, curve, make_episodes, make_task, run

TRANSFORMER = ("trajectory_transformer", MODEL)
TOY = ("toy", ToySettings())
Choice = tuple[str, MethodSettings]


@pytest.fixture(autouse=True)
def another_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "toy", ToyMethod())


def training_of(choice: Choice, folder: Path, init_from: Path | None = None, num_bins: int = 10) -> MethodTraining:
    method, settings = choice
    write_shards(folder / "shards", make_episodes(), DataConfig(num_bins=num_bins, validation_share=0.2))
    config = TRAINING.model_copy(update={"init_from": init_from and str(init_from)})
    return make_task(folder, config, settings, method)


def checkpoint_of(training: MethodTraining) -> Path:
    """Of a model that nothing was taught."""
    task = training.task
    weights = {name: tensor + 1 for name, tensor in training.make_model().state_dict().items()}
    info = CheckpointInfo(1, 0, None)
    return write_checkpoint(task.checkpoints, info, weights, task.config, task.manifest.to_json(), None)


def test_a_method_of_values_trains_and_goes_on_as_if_it_had_not_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.training.control, "CONTROL_SECONDS", 0.0)
    straight, broken = (training_of(TOY, tmp_path / name) for name in ("straight", "broken"))
    run(straight)
    asked = iter(range(100))
    run(broken, stop_requested=lambda: next(asked) == 6)
    run(broken)
    assert curve(broken.task.metrics) == curve(straight.task.metrics)
    first, *_, last = (line for line in read_metrics(straight.task.metrics) if line["kind"] == "epoch")
    assert last["loss"] < first["loss"]
    assert {"error_action", "validation_error_action"} <= last.keys()
    folders = [last_checkpoint(training.task.checkpoints) for training in (broken, straight)]
    ours, theirs = (load_checkpoint(folder) for folder in folders if folder is not None)
    assert ours.settings == ToySettings()
    assert not ours.model.training
    assert all(torch.equal(a, b) for a, b in zip(ours.model.parameters(), theirs.model.parameters(), strict=True))


def test_shards_without_what_a_method_reads_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", make_episodes(), DataConfig(num_bins=10, store="tokens"))
    make_task(tmp_path).check()
    with pytest.raises(ManifestError, match="holds tokens of each step, but no observations and no actions and no rew"):
        make_task(tmp_path, settings=ToySettings(), method="toy").check()


@pytest.mark.parametrize(
    ("choice", "ours", "num_bins"),
    [
        (TOY, ToySettings(dropout=0.5), 10),
        (TOY, ToySettings(), 12),  # it reads no tokens
        (TRANSFORMER, MODEL.model_copy(update={"dropout": 0.0, "loss_weights": LossWeights(action=1)}), 10),
    ],
)
def test_what_is_of_the_training_or_not_read_may_differ_from_where_the_weights_come_from(
    tmp_path: Path, choice: Choice, ours: MethodSettings, num_bins: int
) -> None:
    source = checkpoint_of(training_of(choice, tmp_path / "first"))
    training = training_of((choice[0], ours), tmp_path / "second", source, num_bins)
    model = training.make_model()
    assert training.load_initial is not None
    training.load_initial(model)
    theirs = load_checkpoint(source).model.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("theirs", "ours", "num_bins", "message"),
    [
        (TRANSFORMER, TOY, 10, r", a model of trajectory_transformer; expected one of toy\.$"),
        (TOY, TRANSFORMER, 10, r", a model of toy; expected one of trajectory_transformer\.$"),
        (
            TOY,
            ("toy", ToySettings(width=5)),
            10,
            r", a model with other settings or data \(width: was 4, is 5\); expected the same",
        ),
        (
            TRANSFORMER,
            TRANSFORMER,
            12,
            r", a model with other .* \(.*num_bins: was 10, is 12\); expected the same, so that .*\.$",
        ),
    ],
)
def test_weights_of_another_model_are_refused(
    tmp_path: Path, theirs: Choice, ours: Choice, num_bins: int, message: str
) -> None:
    source = checkpoint_of(training_of(theirs, tmp_path / "first"))
    training = training_of(ours, tmp_path / "second", source, num_bins)
    assert training.load_initial is not None
    with pytest.raises(CheckpointError, match=rf"^training\.init_from is '{source}'{message}"):
        training.load_initial(training.make_model())


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (TOY, r"state\.pt', a file; expected the folder of a checkpoint: toy knows the files of no other code\.$"),
        (TRANSFORMER, r"state\.pt cannot be read \(.*\); expected a file of tensors that torch\.save wrote\.$"),
    ],
)
def test_a_file_is_for_the_method_to_know(tmp_path: Path, choice: Choice, message: str) -> None:
    path = tmp_path / "state.pt"
    path.write_text("no tensors here")
    training = training_of(choice, tmp_path, path)
    assert training.load_initial is not None
    with pytest.raises(CheckpointError, match=message):
        training.load_initial(training.make_model())
