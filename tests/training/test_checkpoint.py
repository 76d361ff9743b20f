import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.configuration import write_atomically
from pipeline.errors import CheckpointError
from pipeline.methods.checkpoint import load_checkpoint
from pipeline.methods.training import MethodTraining
from pipeline.provenance import commit, computed_by, hardware
from pipeline.stored import sealed, unsealed
from pipeline.training import checkpoint
from pipeline.training.checkpoint import (
    INFO,
    CheckpointInfo,
    Selection,
    best_checkpoint,
    last_checkpoint,
    list_checkpoints,
    load_training_state,
    read_info,
    sha256,
    write_checkpoint,
)
from tests.training.tasks import MODEL, make_task, run


def write(
    training: MethodTraining, step: int, loss: float | None = None, resumed: dict[str, object] | None = None
) -> Path:
    task, info, weights = training.task, CheckpointInfo(step, 1, loss), training.make_model().state_dict()
    return write_checkpoint(task.checkpoints, info, weights, task.config, task.manifest.to_json(), resumed)


def test_a_checkpoint_gives_back_what_was_written(tmp_path: Path) -> None:
    training = make_task(tmp_path)
    folder = write(training, 7, 0.5, {"state": {"step": 7}, "tensor": torch.arange(3)})
    loaded = load_checkpoint(folder)
    assert (loaded.method, loaded.settings) == (training.method, training.settings)
    assert loaded.info == CheckpointInfo(7, 1, 0.5)
    assert loaded.manifest == training.manifest
    assert loaded.config == training.task.config
    assert not loaded.model.training
    weights, resumed = load_training_state(folder)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.model.state_dict().items())
    assert resumed["state"] == {"step": 7}
    assert torch.equal(resumed["tensor"], torch.arange(3))


def test_a_checkpoint_tells_where_it_was_trained(tmp_path: Path) -> None:
    training = make_task(tmp_path)
    run(training)
    told = read_info(list_checkpoints(training.task.checkpoints)[-1]).trained_on
    assert told == {**hardware(), "computed by": computed_by("cpu"), "workers": "1", "commit": commit()}


def test_a_training_that_goes_on_with_another_kind_of_processor_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    training = make_task(tmp_path)
    run(training)
    run(training)
    assert not caplog.records
    monkeypatch.setattr("pipeline.training.resume.computed_by", lambda _: "an abacus")
    run(training)
    assert f"was computed by {computed_by('cpu')}, and goes on with an abacus." in caplog.text


def test_a_checkpoint_from_before_that_was_recorded_is_read(tmp_path: Path) -> None:
    path = write(make_task(tmp_path), 7) / "checkpoint.json"
    content = unsealed(path.read_bytes())
    del content["trained_on"], content["selection"]
    path.write_text(json.dumps(content))
    assert load_checkpoint(path.parent).info == CheckpointInfo(7, 1, None, trained_on=None)


def test_the_best_is_the_one_of_the_lowest_loss(tmp_path: Path) -> None:
    training = make_task(tmp_path)
    for step, loss in ((10, 0.0), (20, 0.4), (30, None), (40, 0.2)):
        write(training, step, loss)
    assert best_checkpoint(training.task.checkpoints).name == "step-000000010"
    assert last_checkpoint(training.task.checkpoints) == training.task.checkpoints / "step-000000040"
    with pytest.raises(CheckpointError, match=r"holds no checkpoint; expected one\. Run jobs/train\.py"):
        best_checkpoint(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("measure", "values", "best"),
    [
        ("loss_action", (0.4, 0.2, 0.3, None), 20),
        ("error_action", (0.4, 0.2, 0.3, None), 20),
        ("accuracy_action", (0.4, 0.2, 0.9, None), 30),
        ("accuracy_action", (0.4, 0.9, 0.9, 0.1), 20),
        ("loss_action", (None, None, None, None), 40),
    ],
)
def test_the_best_is_what_the_run_selects_by_whatever_the_loss_is(
    tmp_path: Path, measure: str, values: tuple[float | None, ...], best: int
) -> None:
    training = make_task(tmp_path)
    task, weights = training.task, training.make_model().state_dict()
    for step, value in zip((10, 20, 30, 40), values, strict=True):
        info = CheckpointInfo(step, 1, validation_loss=float(step), selection=Selection(measure, value))
        folder = write_checkpoint(task.checkpoints, info, weights, task.config, task.manifest.to_json(), None)
        assert load_checkpoint(folder).info == info
    assert read_info(best_checkpoint(task.checkpoints)).step == best


def test_a_selection_by_what_has_no_better_side_is_refused(tmp_path: Path) -> None:
    path = write(make_task(tmp_path), 7) / INFO
    selection = {"measure": "perplexity_action", "value": 0.5}
    path.write_text(sealed({**unsealed(path.read_bytes()), "selection": selection}))
    with pytest.raises(CheckpointError, match=rf"^{path} does not describe a checkpoint: .*selection"):
        best_checkpoint(path.parent.parent)


def test_without_losses_the_best_is_the_last(tmp_path: Path) -> None:
    training = make_task(tmp_path)
    write(training, 10)
    newest = write(training, 20)
    assert best_checkpoint(training.task.checkpoints) == newest


def test_a_checkpoint_gets_its_name_after_its_files_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, order = make_task(tmp_path), []
    flush, rename = os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda file: order.append("flushed") or flush(file))
    monkeypatch.setattr(Path, "rename", lambda self, target: order.append("named") or rename(self, target))
    folder = write(training, 3, resumed={})
    assert order == ["flushed"] * len(list(folder.iterdir())) + ["named"]


def test_an_interrupted_write_leaves_nothing_that_looks_like_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a new one nor a part of an older one of the same step, which stays as it was."""
    training, written = make_task(tmp_path), []
    folder = write(training, 10, 0.5)

    def die_at_the_second_file(path: Path, content: bytes) -> None:
        if written:
            raise KeyboardInterrupt
        write_atomically(path, content)
        written.append(path)

    monkeypatch.setattr(checkpoint, "write_atomically", die_at_the_second_file)
    for step in (10, 20):
        written.clear()
        with pytest.raises(KeyboardInterrupt):
            write(training, step, 0.25)
        assert len(written) == 1
    assert list_checkpoints(training.task.checkpoints) == list(training.task.checkpoints.iterdir()) == [folder]
    assert load_checkpoint(folder).info.validation_loss == 0.5


def test_a_checkpoint_takes_the_place_of_an_older_one_of_the_same_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At no moment is there neither, and whatever refuses leaves the old one."""
    training = make_task(tmp_path)
    folder, rename = write(training, 10, 0.5), Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if target == folder and path.name.startswith(".partial-"):
            raise OSError(5, "Input/output error")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        with pytest.raises(OSError, match="Input/output"):
            write(training, 10, 0.25)
    assert load_checkpoint(folder).info.validation_loss == 0.5
    write(training, 10, 0.25)
    assert load_checkpoint(folder).info.validation_loss == 0.25
    assert list(training.task.checkpoints.iterdir()) == [folder]


def corrupt(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return change


def linked(name: str, target: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return change


def described(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        path = folder / "checkpoint.json"
        content = unsealed(path.read_bytes())
        change(content)
        path.write_text(sealed(content))

    return rewrite


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (corrupt("model.safetensors"), r"model\.safetensors is corrupt: its sha256"),
        (corrupt("manifest.json"), r"manifest\.json is corrupt"),
        (corrupt("config.yaml"), r"config\.yaml is corrupt"),
        (corrupt("training.pt"), r"training\.pt is corrupt"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors is missing"),
        (lambda folder: (folder / "checkpoint.json").write_text("{"), r"checkpoint\.json is not readable"),
        (described(lambda content: content.update(format_version=99)), "has format version 99; expected 2"),
        (
            described(lambda content: [content.pop(name) for name in ("step", "epoch")]),
            r"json does not describe a checkpoint: step is missing; .* epoch is missing",
        ),
        (described(lambda content: content.update(step="soon")), r"step is 'soon'; expected a whole number"),
        (described(lambda content: content.update(sha256=None)), r"json does not describe a checkpoint"),
        (
            described(lambda content: content["sha256"].clear()),
            r"has no sha256 of config\.yaml, manifest\.json, model\.",
        ),
        (described(lambda content: content["sha256"].update({"/dev/zero": "0" * 64})), r"json does not describe"),
        (described(lambda content: content["sha256"].update({"../x.json": "0" * 64})), r"json does not describe"),
        (described(lambda content: content["sha256"].update({"config.yaml": "x"})), r"json does not describe"),
        (
            lambda folder: (folder / "checkpoint.json").write_text("[1]"),
            r"is not readable \(it holds no values by name",
        ),
        (lambda folder: (folder / "checkpoint.json").write_text("[" * 100_000), r"is not readable \(.*nested"),
        (linked("checkpoint.json", "/dev/zero"), r"json is not readable \(it is no regular file\)"),
        (linked("model.safetensors", "/dev/zero"), r"model\.safetensors is missing"),
    ],
)
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    folder = write(make_task(tmp_path), 7, None, {"state": 1})
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


def test_a_checkpoint_that_was_replaced_meanwhile_is_no_damage(tmp_path: Path) -> None:
    """A training goes on, and an evaluation still has the name of the checkpoint before."""
    folder = write(make_task(tmp_path), 7)
    shutil.rmtree(folder)
    told = r"checkpoint\.json is not there; .*replaces its checkpoints: run the same command again, or .*keep_best"
    for read in (read_info, load_checkpoint):
        with pytest.raises(CheckpointError, match=told):
            read(folder)


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(make_task(tmp_path), 7)

    def digest(path: Path) -> str:
        shutil.rmtree(folder)
        return sha256(path)

    monkeypatch.setattr(checkpoint, "sha256", digest)
    with pytest.raises(CheckpointError, match=r"checkpoint\.json is not there; .*replaces its checkpoints"):
        load_checkpoint(folder)


def test_settings_that_blow_up_are_refused(tmp_path: Path) -> None:
    folder = write(make_task(tmp_path), 1)
    # Each level is ten of the one before: a hundred bytes a line, ten gigabytes in memory.
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 10)]
    (folder / "config.yaml").write_text("\n".join(lines))
    content = unsealed((folder / "checkpoint.json").read_bytes())
    content["sha256"]["config.yaml"] = sha256(folder / "config.yaml")
    (folder / "checkpoint.json").write_text(sealed(content))
    with pytest.raises(CheckpointError, match=r"does not hold a model of this pipeline \(.*has an alias"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"trajectory_transformer": {**MODEL.model_dump(mode="json"), "width": 32}},
            r"bias: \(16,\), by its settings \(32,\)",
        ),
        ({"trajectory_transformer": {**MODEL.model_dump(mode="json"), "width": -1}}, "width"),
        ({"trajectory_transformer": {**MODEL.model_dump(mode="json"), "layers": 1_000_000_000}}, "layers"),
        # 10 terabytes, were they asked for.
        (
            {"trajectory_transformer": {**MODEL.model_dump(mode="json"), "width": 2**20}},
            r"by its settings \(1048576,\)",
        ),
        (
            {"method": "telepathy"},
            "the checkpoint is of the method 'telepathy'; expected one of behaviour_cloning, decision_transformer",
        ),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    training = make_task(tmp_path)
    folder = write(training.recorded_as({**training.task.config, **change}), 1)
    with pytest.raises(CheckpointError, match=rf"(?s)does not hold a model of this pipeline \(.*{reason}"):
        load_checkpoint(folder)
