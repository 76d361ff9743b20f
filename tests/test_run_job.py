"""What jobs/run.py does between the stages."""

import contextlib
import runpy
from pathlib import Path

import pytest

from pipeline.data.manifest import write_manifest
from pipeline.errors import EnvironmentSetupError
from pipeline.run_folder import RunFolder
from tests.conftest import REPOSITORY
from tests.evaluation.tiny_run import tiny_experiment, tiny_manifest


def test_the_whole_way_stops_before_it_trains_for_an_environment_that_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, run = tiny_experiment(tmp_path, environment={"id": "Pendulum-v1"}), RunFolder(tmp_path / "tiny")
    write_manifest(run.shards, tiny_manifest())
    reached: list[str] = []
    monkeypatch.setattr("pipeline.distributed.session.session", lambda runs: contextlib.nullcontext())
    for stage in ("collect", "prepare", "train", "evaluate"):
        monkeypatch.setattr(f"pipeline.distributed.{stage}.{stage}", lambda *_, stage=stage: reached.append(stage))
    job = runpy.run_path(str(REPOSITORY / "jobs" / "run.py"))
    with pytest.raises(EnvironmentSetupError, match="expected the spaces of the data"):
        job["main"](experiment, run)
    assert reached == ["collect", "prepare"]
