import json
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline.distributed.evaluate import evaluate
from pipeline.distributed.pool import PoolFacts
from pipeline.distributed.sweep import sweep
from pipeline.errors import CheckpointError, ClusterError, ConfigError, EvaluationError, RunFolderError
from pipeline.evaluation.environment_check import _tell
from pipeline.evaluation.plan_trace import NAME, read_trace
from pipeline.evaluation.recipe import Recipe
from pipeline.evaluation.results import EpisodeStore
from pipeline.evaluation.rollout import EpisodeStart
from pipeline.experiment import Experiment
from pipeline.progress import Progress
from pipeline.reporting.record import RunRecord
from pipeline.run_folder import RunFolder
from tests.distributed.processes import is_alive, some_descendants, start_job, wait_for
from tests.evaluation.tiny_run import TIMING_COLUMNS, episode_frame, tiny_experiment, write_tiny_checkpoint
from tests.reporting.made_run import result

pytestmark = pytest.mark.ray

ROWS = ("random", "one_step", "trajectory_transformer")
TRACED = 1
"""Starts of the environment beside the episodes: for the plan that the planner's row puts to the test, once."""


def made(tmp_path: Path, **sections: dict[str, Any]) -> tuple[Experiment, RunFolder]:
    experiment = tiny_experiment(tmp_path, **sections)
    run = RunFolder(tmp_path / experiment.name)
    write_tiny_checkpoint(run, experiment)
    return experiment, run


class LosingPool:
    """A pool whose actors die of episode 2 of some rows; takes the place of `RolloutPool` without any process."""

    fatal: tuple[str, ...] = ("random",)

    def __init__(self, *_: Any) -> None:
        pass

    def __enter__(self) -> "LosingPool":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, recipe: Recipe, starts: list[EpisodeStart], on_results: Any, on_facts: Any) -> None:
        on_facts(PoolFacts(actors=1))
        fatal = recipe.row in self.fatal
        ended = [start for start in starts if start.episode != 2 or not fatal]
        on_results([result(recipe.row, start.episode, 10.0 * start.episode) for start in ended])
        if fatal:
            raise EvaluationError("episodes [2] lost their actor")


@pytest.fixture
def losing_pool(monkeypatch: pytest.MonkeyPatch) -> type[LosingPool]:
    monkeypatch.setattr("pipeline.distributed.evaluate.RolloutPool", LosingPool)
    monkeypatch.setattr("pipeline.distributed.evaluate.wanted_actors", lambda *_, **__: 1)
    return LosingPool


def test_a_result_that_goes_on_with_another_kind_of_processor_says_so_once(
    losing_pool: type[LosingPool], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    processor = ["an abacus"]

    def run_all(_pool: LosingPool, recipe: Recipe, starts: list[EpisodeStart], on_results: Any, _: Any) -> None:
        for start in starts:
            on_results([result(recipe.row, start.episode, 1.0, computed_by=processor[0])])

    monkeypatch.setattr(losing_pool, "run", run_all)
    told = "trajectory_transformer was computed by an abacus, and goes on with a slide rule."
    for episodes, kind, times in ((2, "an abacus", 0), (3, "an abacus", 0), (5, "a slide rule", 1), (5, "", 0)):
        processor[0] = kind
        experiment, run = made(tmp_path, evaluation={"episodes": episodes, "rows": ["trajectory_transformer"]})
        evaluate(experiment, run)
        assert capsys.readouterr().out.count(told) == times


@pytest.mark.usefixtures("losing_pool")
def test_an_episode_that_is_lost_denies_the_table_neither_its_row_nor_the_others(tmp_path: Path) -> None:
    experiment, run = made(tmp_path)
    for _ in range(2):
        with pytest.raises(EvaluationError, match=r"^random: episodes \[2\] lost their actor$"):
            evaluate(experiment, run)
        summary = json.loads(run.summary.read_text())
        assert {row: entry["episodes"] for row, entry in summary["methods"].items()} == {
            "random": 4,
            "one_step": 5,
            "trajectory_transformer": 5,
        }
        assert summary["methods"]["random"]["mean_return"] == (0 + 10 + 30 + 40) / 4
    run.config.write_text(yaml.safe_dump(experiment.model_dump(mode="json")))
    assert [episode.episode for episode in RunRecord(run).episodes["random"]] == [0, 1, 3, 4]


def test_without_any_actor_the_first_row_s_wait_is_the_last(
    losing_pool: type[LosingPool], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    waited: list[str] = []

    def wait(_pool: LosingPool, recipe: Recipe, _starts: Any, _on_results: Any, on_facts: Any) -> None:
        waited.append(recipe.row)
        raise ClusterError("no actor has started")

    monkeypatch.setattr(losing_pool, "run", wait)
    experiment, run = made(tmp_path)
    with pytest.raises(ClusterError, match=r"^no actor has started$"):
        evaluate(experiment, run)
    assert waited == ["random"]


def test_a_row_without_any_episode_is_not_in_the_table(
    losing_pool: type[LosingPool], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run_none(_pool: LosingPool, recipe: Recipe, starts: list[EpisodeStart], on_results: Any, _: Any) -> None:
        error = "RuntimeError: no" if recipe.row == "random" else ""
        on_results([result(recipe.row, start.episode, 1.0, error=error) for start in starts])

    monkeypatch.setattr(losing_pool, "run", run_none)
    experiment, run = made(tmp_path)
    with pytest.raises(EvaluationError, match=r"^random: random has 0 episodes that ended of 5[\s\S]*RuntimeError: no"):
        evaluate(experiment, run)
    assert json.loads(run.summary.read_text())["methods"].keys() == {"one_step", "trajectory_transformer"}


def test_a_planner_discounts_as_the_values_that_its_model_learnt(tmp_path: Path) -> None:
    _, run = made(tmp_path)
    other = tiny_experiment(tmp_path, data={"discount": 0.9}, planning={"discount": 0.9})
    with pytest.raises(ConfigError, match=r"planning\.discount is 0\.9; expected 0\.99, the discount of the values"):
        evaluate(other, run)


@pytest.mark.parametrize("stage", [evaluate, sweep])
def test_how_an_environment_departs_from_the_data_s_is_told_before_the_first_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stage: Any
) -> None:
    def held(*_: Any) -> None:
        raise RunFolderError("held by another job")

    monkeypatch.setattr(f"{stage.__module__}.exclusive", held)
    _tell.cache_clear()
    wrapper = {"name": "RescaleAction", "kwargs": {"min_action": -3.0, "max_action": 3.0}}
    experiment, run = made(tmp_path, environment={"wrappers": [wrapper]})
    with pytest.raises(RunFolderError, match="held by another job"):
        stage(experiment, run)
    assert "note: action[0] goes from -3 to 3, in the data from -1 to 1: " in capsys.readouterr().out


@pytest.mark.parametrize("stage", [evaluate, sweep])
def test_a_model_of_another_method_is_refused_with_what_to_set(tmp_path: Path, stage: Any) -> None:
    experiment, run = made(tmp_path)
    checkpoint = write_tiny_checkpoint(run, experiment, method="crystal_ball")
    told = rf"^{checkpoint} is a model of the method crystal_ball; expected one of trajectory_transformer: set --method"
    with pytest.raises(CheckpointError, match=told):
        stage(experiment, run)


def episodes(run: RunFolder) -> dict[str, pd.DataFrame]:
    """All that must be bit-equal."""
    frames = {row: episode_frame(run.episodes(row)) for row in ROWS}
    return {row: frame.drop(columns=list(TIMING_COLUMNS)) for row, frame in frames.items()}


def assert_equal(left: RunFolder, right: RunFolder) -> None:
    for row, frame in episodes(left).items():
        pd.testing.assert_frame_equal(frame, episodes(right)[row], check_exact=True)


@pytest.fixture(scope="module")
def undisturbed(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    experiment, run = made(tmp_path_factory.mktemp("undisturbed"), evaluation={"num_actors": 1})
    evaluate(experiment, run)
    return run


def test_the_summary_has_every_row_and_the_table_is_printed(
    undisturbed: RunFolder, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    summary = json.loads(undisturbed.summary.read_text())
    assert summary["data"]["mean_return"] == 15.0
    for row in ROWS:
        entry, frame = summary["methods"][row], episode_frame(undisturbed.episodes(row))
        assert entry["mean_return"] == np.mean(frame["total_reward"])
        assert entry["episodes"] == len(frame) == 5
        assert entry["interval"][0] < entry["mean_return"] < entry["interval"][1]
    evaluate(tiny_experiment(undisturbed.root.parent), undisturbed)
    printed = capsys.readouterr().out
    assert "Trajectory Transformer" in printed
    assert f"{summary['methods']['random']['mean_return']:.1f}" in printed


def test_the_time_left_is_that_of_the_row_that_runs(
    losing_pool: type[LosingPool], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clock, shown, real = [0.0], [], losing_pool.run

    def run(self: LosingPool, recipe: Recipe, starts: list[EpisodeStart], on_results: Any, on_facts: Any) -> None:
        on_facts(PoolFacts())
        real(self, recipe, starts, on_results, on_facts)
        clock[0] += {"random": 1.0, "one_step": 10.0, "trajectory_transformer": 50.0}[recipe.row]
        on_facts(PoolFacts(actors=1))

    monkeypatch.setattr(losing_pool, "run", run)
    monkeypatch.setattr(losing_pool, "fatal", ())
    monkeypatch.setattr("pipeline.distributed.evaluate.time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(Progress, "wait", lambda _, what: shown.append(what))
    monkeypatch.setattr(Progress, "update", lambda _, done, seconds_left, **facts: shown.append((done, seconds_left)))
    evaluate(*made(tmp_path))
    assert shown[:2] == ["the first actor to start", "the first episodes of random, 0 steps so far on 1 actor"]
    assert [entry for entry in shown if not isinstance(entry, str)] == [(5, 2.0), (10, 10.0), (15, 0.0)]


def test_rows_meet_the_same_initial_states(undisturbed: RunFolder) -> None:
    seeds = [tuple(frame["seed"]) for frame in episodes(undisturbed).values()]
    assert len(set(seeds)) == 1
    assert len(set(seeds[0])) == 5


def test_episodes_are_bit_equal_on_two_actors_and_after_a_killed_one(undisturbed: RunFolder, tmp_path: Path) -> None:
    experiment, run = made(tmp_path, environment={"kwargs": {"kill_once": str(tmp_path / "killed")}})
    evaluate(experiment, run)
    assert (tmp_path / "killed").exists()
    assert_equal(run, undisturbed)


@pytest.mark.slow
def test_more_episodes_extend_the_result_and_nothing_is_run_twice(
    ray_session: None, undisturbed: RunFolder, tmp_path: Path
) -> None:
    log = {"environment": {"kwargs": {"log": str(tmp_path / "log")}}}
    experiment, run = made(tmp_path, **log, evaluation={"episodes": 2})
    evaluate(experiment, run)
    assert len(list((tmp_path / "log").iterdir())) == TRACED + 2 * len(ROWS)
    evaluate(tiny_experiment(tmp_path, **log), run)
    assert len(list((tmp_path / "log").iterdir())) == TRACED + 5 * len(ROWS)
    assert_equal(run, undisturbed)
    # The first episode has one step.
    assert read_trace(run.episodes("trajectory_transformer") / NAME) == "The episode ended before the plan was due."
    evaluate(tiny_experiment(tmp_path, **log, evaluation={"episodes": 3}), run)
    assert len(list((tmp_path / "log").iterdir())) == TRACED + 5 * len(ROWS)
    assert json.loads(run.summary.read_text())["methods"]["random"]["episodes"] == 3


def test_evaluating_one_row_alone_keeps_the_others_in_the_summary(undisturbed: RunFolder) -> None:
    before = json.loads(undisturbed.summary.read_text())
    alone = {"rows": ["trajectory_transformer"]}
    evaluate(tiny_experiment(undisturbed.root.parent, evaluation=alone), undisturbed)
    assert json.loads(undisturbed.summary.read_text()) == before


def test_episodes_of_another_model_or_planner_are_never_mixed(undisturbed: RunFolder, tmp_path: Path) -> None:
    runs = undisturbed.root.parent
    told = r"episodes of one_step of another[\s\S]*acting.beam_width: was 4, is 8\nChoose another --name, with "
    with pytest.raises(RunFolderError, match=rf"{told}--evaluation.checkpoint {undisturbed.checkpoints}/step-\d+ for"):
        evaluate(tiny_experiment(runs, planning={"beam_width": 8}), undisturbed)
    other = write_tiny_checkpoint(RunFolder(tmp_path), tiny_experiment(tmp_path), seed=1)
    with pytest.raises(RunFolderError, match=r"another configuration[\s\S]*model.model.safetensors: was"):
        evaluate(tiny_experiment(runs, evaluation={"checkpoint": str(other)}), undisturbed)


@pytest.mark.slow
def test_films_are_made_later_too_of_the_same_episodes(
    ray_session: None, undisturbed: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = {"environment": {"kwargs": {"log": str(tmp_path / "log")}}}
    experiment, run = made(tmp_path, **log)
    evaluate(experiment, run)
    assert "jobs/report.py" not in capsys.readouterr().out
    unfilmed = {row: episode_frame(run.episodes(row)) for row in ROWS}
    for _ in range(2):
        evaluate(tiny_experiment(tmp_path, **log, evaluation={"videos": 2}), run)
        assert len(list((tmp_path / "log").iterdir())) == TRACED + 15 + 2 * 2, "not two of each row with a model"
    told = [f"films     {run.videos(row)}; jobs/report.py links them" for row in ROWS if row != "random"]
    assert capsys.readouterr().out.splitlines()[-2:] == told
    films = sorted(path.relative_to(run.root).as_posix() for path in run.root.rglob("*.mp4"))
    assert films == [f"videos/{row}/episode-00000{i}.mp4" for row in ROWS if row != "random" for i in range(2)]
    assert_equal(run, undisturbed)
    for row, frame in unfilmed.items():
        pd.testing.assert_frame_equal(episode_frame(run.episodes(row)), frame, check_exact=True)  # timings, too


def test_an_episode_that_is_played_again_for_a_film_keeps_its_result_and_tells_of_another_one(
    losing_pool: type[LosingPool], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    got, milliseconds, means = [10.0], [1.0], []

    def run_all(_pool: LosingPool, recipe: Recipe, starts: list[EpisodeStart], on_results: Any, on_facts: Any) -> None:
        for start in starts:
            times = {"decision_ms_median": milliseconds[0], "decision_ms_p99": milliseconds[0]}
            on_results([result(recipe.row, start.episode, got[0], **times)])
        on_facts(PoolFacts(actors=1))

    monkeypatch.setattr(losing_pool, "run", run_all)
    monkeypatch.setattr(Progress, "update", lambda _, done, mean_return, **facts: means.append((done, mean_return)))
    rows = {"episodes": 3, "rows": ["one_step"]}
    experiment, run = made(tmp_path, evaluation=rows)
    evaluate(experiment, run)
    first = EpisodeStore(run.episodes("one_step")).read()
    milliseconds[0] = 50.0
    for returns, told in ((10.0, 0), (4.0, 2)):
        got[0] = returns
        evaluate(tiny_experiment(tmp_path, evaluation={**rows, "videos": 2}), run)
        output = capsys.readouterr().out
        assert output.count("when it was played again, and 10 before, which stays in the table") == told
        assert EpisodeStore(run.episodes("one_step")).read() == first
        assert json.loads(run.summary.read_text())["methods"]["one_step"]["decision_ms"] == 1.0
    assert "episode 1 of one_step got 4 when it was played again, and 10 before" in output
    assert means == [(3, 10.0)] * 3, "what was played again counts once"


def test_a_run_without_a_checkpoint_says_which_job_writes_one(ray_session: None, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no checkpoint; expected one. Run jobs/train.py first"):
        evaluate(tiny_experiment(tmp_path), RunFolder(tmp_path / "tiny"))


def ended(run: RunFolder) -> int:
    return sum(5 - len(EpisodeStore(run.episodes(row)).missing(5)) for row in ROWS)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_driver_keeps_what_is_done_and_the_same_command_goes_on(
    undisturbed: RunFolder, tmp_path: Path, number: signal.Signals
) -> None:
    # All of the first row's episodes end, and two of the second's begin: the others wait for a file.
    pausing = {"environment": {"kwargs": {"log": str(tmp_path / "log"), "pause_at": 7}}}
    experiment, run = made(tmp_path, **pausing)
    config, log = tmp_path / "config.yaml", tmp_path / "log.txt"
    config.write_text(yaml.safe_dump(experiment.model_dump(mode="json")))
    process = start_job("evaluate", "--config", str(config), log=log)
    wait_for(lambda: ended(run) >= 5 or process.poll() is not None, "five episodes", log)
    assert process.poll() is None, log.read_text()
    # Actors outlive a killed driver by seconds, and would begin the episodes that wait.
    actors = some_descendants(process.pid, "ray::RolloutActor", log)
    process.send_signal(number)
    process.wait(timeout=60)
    wait_for(lambda: not any(map(is_alive, actors)), "the end of its actors", log)
    kept = ended(run)
    assert 5 <= kept <= 7
    if number == signal.SIGINT:
        output = log.read_text()
        assert process.returncode == 130
        assert "Go on with: python jobs/evaluate.py --config" in output
        assert "Traceback" not in output
    begun = len(list((tmp_path / "log").iterdir()))
    (tmp_path / "log" / "open").touch()
    evaluate(experiment, run)
    assert len(list((tmp_path / "log").glob("*-*"))) == begun + TRACED + 15 - kept
    assert_equal(run, undisturbed)
