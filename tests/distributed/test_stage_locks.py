"""Two jobs of one name: each stage is run by one of them, and the other one is told."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.distributed.collect import collect
from pipeline.distributed.evaluate import evaluate
from pipeline.distributed.prepare import prepare
from pipeline.distributed.sweep import sweep
from pipeline.errors import RunFolderError
from pipeline.exclusive import exclusive
from pipeline.experiment import Experiment
from pipeline.run_folder import RunFolder
from tests.data.episodes import random_episodes, write_minari
from tests.distributed.stages import experiment
from tests.evaluation.tiny_run import tiny_experiment, write_tiny_checkpoint

Stage = Callable[[Experiment, RunFolder], None]


@pytest.mark.parametrize(
    ("stage", "noun", "folder"),
    [
        (collect, "collection", "behaviour"),
        (prepare, "preparation", "shards"),
        (evaluate, "evaluation", "evaluation"),
        (sweep, "sweep", "sweep"),
    ],
)
def test_a_stage_that_another_job_runs_is_refused(tmp_path: Path, stage: Stage, noun: str, folder: str) -> None:
    if stage in (collect, prepare):
        write_minari(tmp_path, "test/data-v0", random_episodes([3] * 3))
        entire, run = experiment(tmp_path, "run", data={"sources": [{"id": "test/data-v0", "root": str(tmp_path)}]})
    else:
        entire = tiny_experiment(tmp_path)
        run = RunFolder(tmp_path / entire.name)
        write_tiny_checkpoint(run, entire)
    told = pytest.raises(RunFolderError, match=rf"{folder} is written by the {noun} of process .*; expected one {noun}")
    with exclusive(run.root / folder, noun), told:
        stage(entire, run)
