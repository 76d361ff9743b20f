"""What a trial does in its own process, without Ray."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.distributed import trials
from pipeline.distributed.trials import SettingTrial, TrialPlan
from pipeline.errors import EnvironmentSetupError
from pipeline.methods.swept import Swept
from pipeline.run_folder import RunFolder
from tests.evaluation.tiny_run import tiny_experiment, tiny_recipe, write_tiny_checkpoint
from tests.reporting.made_run import result


@pytest.fixture
def trial(tmp_path: Path) -> SettingTrial:
    """A trial of one episode, outside of Tune."""
    experiment = tiny_experiment(tmp_path, sweep={"episodes": 1})
    checkpoint = write_tiny_checkpoint(RunFolder(tmp_path / "tiny"), experiment)
    recipe, swept = tiny_recipe(experiment, checkpoint), Swept("planning", experiment.planning)
    plan = TrialPlan(recipe, swept, experiment.sweep, tmp_path / "sweep", 0, 1, experiment.evaluation)
    made = SettingTrial.__new__(SettingTrial)
    made.setup({"setting": {"planning.beam_width": 2}}, plan)
    return made


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the trial did with its watchdog, in order."""
    events: list[str] = []
    watchdog = SimpleNamespace(
        dump_traceback_later=lambda _seconds, exit: events.append("armed"),
        cancel_dump_traceback_later=lambda: events.append("cancelled"),
    )
    monkeypatch.setattr(trials, "faulthandler", watchdog)
    return events


def test_the_watchdog_runs_from_before_the_environment_is_made_to_the_last_episode(
    trial: SettingTrial, events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(_starts: Any, keep: Any) -> None:
        keep([result("trajectory_transformer", 0, 1.0)])

    def build(_recipe: Any) -> SimpleNamespace:
        events.append("built")
        return SimpleNamespace(run=run)

    monkeypatch.setattr(trials, "build_batch", build)
    assert trial.step()["done"]
    assert events == ["armed", "built", "armed", "cancelled"]


def test_the_watchdog_does_not_outlive_a_trial_that_fails(
    trial: SettingTrial, events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(_recipe: Any) -> None:
        raise EnvironmentSetupError("there is no such environment")

    monkeypatch.setattr(trials, "build_batch", build)
    with pytest.raises(EnvironmentSetupError):
        trial.step()
    assert events == ["armed", "cancelled"]
