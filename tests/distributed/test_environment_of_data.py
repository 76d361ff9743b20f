"""What is told of an environment that does not fit the prepared data, before a training takes hours."""

import contextlib
import runpy
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.manifest import SourceRecord, write_manifest
from pipeline.distributed.prepare import require_environment, tell_environment
from pipeline.errors import EnvironmentSetupError
from pipeline.experiment import Experiment
from pipeline.run_folder import RunFolder
from tests.conftest import REPOSITORY
from tests.evaluation.tiny_run import tiny_experiment, tiny_manifest


def prepared(tmp_path: Path, **environment: Any) -> tuple[Experiment, RunFolder]:
    """Data of the counting environment with another limit than the experiment's, and an experiment on it."""
    recorded = {"id": "Counting-v0", "max_episode_steps": 70, "kwargs": {}}
    source = SourceRecord(
        name="counted", episodes=2, steps=9, available_episodes=2, fingerprint="0", environment=recorded
    )
    experiment = tiny_experiment(tmp_path, environment=environment)
    run = RunFolder(tmp_path / experiment.name)
    write_manifest(run.shards, tiny_manifest(sources=(source,)))
    return experiment, run


def test_another_limit_than_the_data_s_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    require_environment(*prepared(tmp_path))
    assert capsys.readouterr().out.startswith(
        "note: environment.max_episode_steps is 50, but the data was collected with 70: "
    )


@pytest.mark.parametrize("other", ["Pendulum-v1", "Nothing-v0"])
def test_preparing_tells_of_an_environment_that_does_not_fit_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], other: str
) -> None:
    experiment, run = prepared(tmp_path, id=other)
    tell_environment(experiment, run)
    told = capsys.readouterr().out
    assert told.startswith(
        f"note: the data can be trained on, but not evaluated: environment.id is {other!r}; expected"
    )
    with pytest.raises(EnvironmentSetupError, match=other):
        require_environment(experiment, run)


def test_the_whole_way_stops_before_it_trains_for_an_environment_that_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, run = prepared(tmp_path, id="Pendulum-v1")
    reached: list[str] = []
    monkeypatch.setattr("pipeline.distributed.session.session", lambda runs: contextlib.nullcontext())
    for stage in ("collect", "prepare", "train", "evaluate"):
        monkeypatch.setattr(f"pipeline.distributed.{stage}.{stage}", lambda *_, stage=stage: reached.append(stage))
    job = runpy.run_path(str(REPOSITORY / "jobs" / "run.py"))
    with pytest.raises(EnvironmentSetupError, match="expected the spaces of the data"):
        job["main"](experiment, run)
    assert reached == ["collect", "prepare"]
