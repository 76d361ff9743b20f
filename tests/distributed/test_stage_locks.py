"""Two jobs of one name: each stage is run by one of them, and the other one is told."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.configuration import IDENTITY
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
    assert not list((run.root / folder).rglob(IDENTITY)), "it claimed a folder that another job may be about to claim"


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_two_runs_do_not_write_shards_into_one_folder_at_a_time(tmp_path: Path, scheme: str) -> None:
    data = {"sources": [{"id": "test/data-v0", "root": str(tmp_path)}], "output": f"{scheme}{tmp_path}/shared"}
    entire, run = experiment(tmp_path, "second", data=data)
    told = pytest.raises(RunFolderError, match="shared is written by the preparation of process")
    with exclusive(tmp_path / "shared", "preparation"), told:
        prepare(entire, run)
    assert not (tmp_path / "shared" / IDENTITY).exists()
