"""Run folders for the tests of reports."""

from pathlib import Path

import pytest
import yaml

from pipeline.experiment import Experiment
from pipeline.run_folder import RunFolder
from tests.reporting.made_run import METHODS, MadeRun, write_evaluation, write_shards, write_training


@pytest.fixture
def empty_run(tmp_path: Path) -> MadeRun:
    """A run folder in which no stage has run."""
    model = {"layers": 3, "heads": 2, "width": 16, "window_transitions": 6}
    experiment = Experiment.model_validate(
        {
            "name": "made",
            "environment": {"id": "Pendulum-v1", "max_episode_steps": 40},
            "model": model,
            "planning": {"context_transitions": 2, "horizon": 3, "beam_width": 4},
        }
    )
    folder = RunFolder(tmp_path / "runs" / "made")
    folder.root.mkdir(parents=True)
    folder.config.write_text(yaml.safe_dump(experiment.model_dump(mode="json")))
    return MadeRun(folder, experiment)


@pytest.fixture
def made_run(empty_run: MadeRun) -> MadeRun:
    """A run folder in which prepare, train and evaluate are done."""
    manifest = write_shards(empty_run.folder)
    write_training(empty_run, manifest)
    write_evaluation(empty_run.folder, manifest, METHODS)
    return empty_run
