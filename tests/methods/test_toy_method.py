"""A method is added from outside: a package, a line in the registry, a section of the experiment, no other change."""

from pathlib import Path

import pytest

from pipeline.distributed.train_worker import make_training
from pipeline.evaluation.recipe import build_batch, row_recipe
from pipeline.evaluation.rollout import episode_starts
from pipeline.experiment import Experiment
from pipeline.methods.checkpoint import load_checkpoint
from pipeline.methods.registry import METHODS
from pipeline.records import EpisodeResult
from pipeline.reporting.methods import label, ordered
from pipeline.run_folder import RunFolder
from pipeline.training.checkpoint import last_checkpoint
from pipeline.training.metrics import read_metrics
from tests.data.in_memory import write_shards
from tests.evaluation.counting import ID, SPACES
from tests.methods.toy import ToyMethod, ToySettings
from tests.training.tasks import make_episodes, make_loop


class WithToy(Experiment):
    """An experiment with one section more."""

    toy: ToySettings = ToySettings()


def test_a_method_of_the_tests_alone_trains_is_stored_and_acts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "toy", ToyMethod())
    experiment = WithToy.model_validate(
        {
            "method": "toy",
            "toy": {"width": 8},
            "environment": {"id": ID, "max_episode_steps": 20},
            "training": {"epochs": 5, "batch_size": 16, "learning_rate": 0.03, "precision": "float32"},
        }
    )
    assert experiment.row_kinds == ("random", "toy")
    run = RunFolder(tmp_path / "run")
    manifest = write_shards(run.shards, make_episodes(), spaces=SPACES)
    training = make_training(experiment, run)
    training.check()
    loop, windows, validation = make_loop(training)
    loop.run(windows, validation)
    lines = read_metrics(run.metrics)
    assert {"loss", "error_action", "validation_error_action"} <= lines[-1].keys()
    assert lines[-1]["loss"] < lines[0]["loss"]

    checkpoint = last_checkpoint(run.checkpoints)
    assert checkpoint is not None
    assert load_checkpoint(checkpoint).settings == ToySettings(width=8)
    (row,) = training.method.rows("toy", experiment.settings, experiment.planning, manifest)
    recipe = row_recipe(row, "toy", experiment.environment, experiment.evaluation, manifest, checkpoint)
    results: list[EpisodeResult] = []
    build_batch(recipe).run(episode_starts(0, "test", [0, 1]), results.extend)
    assert {result.method for result in results} == {"toy"}
    assert not any(result.error for result in results)
    assert label("toy") == "Toy"
    assert ordered(["toy", "random"]) == ["random", "toy"]
