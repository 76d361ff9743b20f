"""A method beside the planner through every stage that acts: evaluation, sweep, the chosen setting, films, report."""

import json
from pathlib import Path

import pytest
import yaml

from pipeline.command_line import write_config
from pipeline.distributed.evaluate import evaluate
from pipeline.distributed.sweep import sweep
from pipeline.evaluation.sweep import read_table
from pipeline.experiment import Experiment
from pipeline.reporting.report import write_report
from pipeline.run_folder import RunFolder
from tests.evaluation.tiny_run import EXPERIMENT, episode_frame, write_tiny_checkpoint

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_session")]


def test_a_decision_transformer_is_evaluated_swept_filmed_and_reported(tmp_path: Path) -> None:
    values = {
        **EXPERIMENT,
        "runs": str(tmp_path),
        "method": "decision_transformer",
        "decision_transformer": {"layers": 1, "width": 8, "context_steps": 3},
        "evaluation": {"episodes": 3, "batch_size": 2, "videos": 1},
        "sweep": {"space": None, "episodes": 2},
    }
    experiment, run = Experiment.model_validate(values), RunFolder(tmp_path / "tiny")
    checkpoint = write_tiny_checkpoint(run, experiment)
    evaluate(experiment, run)
    write_config(experiment, run)
    rows = ["random", "decision_transformer@best", "decision_transformer@half"]
    assert list(json.loads(run.summary.read_text())["methods"]) == rows
    for row in rows[1:]:
        assert len(episode_frame(run.episodes(row))) == 3
        assert (run.videos(row) / "episode-000000.mp4").is_file()

    sweep(experiment, run)
    # The data's best episode has 20.
    tried = {tuple(row.settings.values()) for row in read_table(run.sweep)}
    assert tried == {(target, steps) for target in (20.0, 10.0) for steps in (1, 3)}
    chosen = Experiment.model_validate(yaml.safe_load((run.sweep / "chosen.yaml").read_text()))
    assert chosen.evaluation.checkpoint == str(checkpoint)
    settings = next(row for row in read_table(run.sweep) if row.chosen).settings
    assert chosen.decision_transformer.target_returns == settings["decision_transformer.target_return"]
    assert chosen.decision_transformer.acting_steps == settings["decision_transformer.context_steps"]
    evaluate(chosen, RunFolder(tmp_path / chosen.name))

    page = write_report(run).read_text()
    assert ">Returns asked for</h2>" in page
    assert "Decision Transformer for half" in page
    assert ">Plan</h2>" not in page
    assert ">Attention</h2>" not in page
