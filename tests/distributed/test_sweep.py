from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import ray
import yaml

from pipeline.distributed.sweep import _with_space, sweep
from pipeline.distributed.trials import SettingTrial, TrialPlan, _search, tried_settings
from pipeline.errors import ClusterError, ConfigError, EvaluationError, RunFolderError
from pipeline.evaluation.recipe import build_batch
from pipeline.evaluation.results import EpisodeStore
from pipeline.evaluation.rollout import episode_starts
from pipeline.evaluation.sweep import read_table, setting_key
from pipeline.experiment import Experiment
from pipeline.methods.registry import METHODS
from pipeline.methods.swept import Setting, Swept
from pipeline.methods.trajectory_transformer.config import TrajectoryTransformerConfig
from pipeline.methods.trajectory_transformer.method import TrajectoryTransformerMethod
from pipeline.planning.config import PlanningConfig
from pipeline.run_folder import RunFolder
from tests.distributed.processes import is_alive, some_descendants, start_job, wait_for
from tests.evaluation.tiny_run import (
    TIMING_COLUMNS,
    episode_frame,
    tiny_experiment,
    tiny_manifest,
    tiny_recipe,
    write_tiny_checkpoint,
)
from tests.reporting.made_run import result

pytestmark = pytest.mark.ray


def made(tmp_path: Path, **sections: dict[str, Any]) -> tuple[Experiment, RunFolder]:
    experiment = tiny_experiment(tmp_path, environment={"kwargs": {"log": str(tmp_path / "log")}}, **sections)
    run = RunFolder(tmp_path / experiment.name)
    write_tiny_checkpoint(run, experiment)
    return experiment, run


def kept_episodes(run: RunFolder) -> int:
    return len(list(run.sweep.glob("*/episode-*.parquet")))


def begun(tmp_path: Path) -> int:
    return len(list((tmp_path / "log").glob("*-*")))


@pytest.mark.slow
def test_a_grid_is_tried_once_and_its_table_is_that_of_the_episodes(
    ray_session: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    experiment, run = made(tmp_path)
    sweep(experiment, run)
    rows = read_table(run.sweep)
    assert sorted(tuple(row.settings.values()) for row in rows) == [(2, 1), (2, 2), (4, 1), (4, 2)]
    assert begun(tmp_path) == 16
    others = [line for line in capfd.readouterr().out.splitlines() if not line.startswith("sweep ")]
    assert len(others) < 10, "Ray Tune prints again"
    assert any("mean return" in line and "95 % interval" in line for line in others)
    for row in rows:
        assert row.mean_return == episode_frame(run.sweep / row.key)["total_reward"].mean()
        assert_runs_alone(experiment, run, row.settings)
    sweep(experiment, run)
    assert begun(tmp_path) == 16
    chosen = Experiment.model_validate(yaml.safe_load((run.sweep / "chosen.yaml").read_text()))
    best = max(rows, key=lambda row: (row.mean_return, -row.decision_ms))
    assert chosen.name == "tiny-chosen"
    assert (chosen.planning.beam_width, chosen.planning.horizon) == tuple(best.settings.values())
    with pytest.raises(
        RunFolderError, match=r"a sweep of another configuration[\s\S]*context_transitions: was 1, is 2"
    ):
        sweep(with_planning(experiment, {"planning.context_transitions": 2}), run)


def with_planning(experiment: Experiment, setting: Setting) -> Experiment:
    return experiment.model_copy(update={"planning": Swept("planning", experiment.planning).applied(setting)})


def assert_runs_alone(experiment: Experiment, run: RunFolder, setting: dict[str, Any]) -> None:
    """Checks a setting's episodes against those of one batch in this process."""
    recipe = tiny_recipe(with_planning(experiment, setting), next(run.checkpoints.iterdir()))
    alone = EpisodeStore(run.root / "alone" / setting_key(setting))
    plain = experiment.environment.model_copy(update={"kwargs": {}})
    batch = build_batch(recipe.model_copy(update={"row": "sweep of trajectory_transformer", "environment": plain}))
    batch.run(episode_starts(experiment.seed, "sweep episode", list(range(4))), alone.add)
    swept, expected = (
        episode_frame(folder).drop(columns=list(TIMING_COLUMNS))
        for folder in (run.sweep / setting_key(setting), alone.folder)
    )
    pd.testing.assert_frame_equal(swept, expected, check_exact=True)


@pytest.mark.slow
def test_a_killed_sweep_goes_on_with_more_episodes_and_repeats_none(ray_session: None, tmp_path: Path) -> None:
    experiment, run = made(tmp_path, sweep={"episodes": 2})
    pausing = experiment.environment.model_copy(update={"kwargs": {"log": str(tmp_path / "log"), "pause_at": 5}})
    experiment = experiment.model_copy(update={"environment": pausing})
    config, log = tmp_path / "config.yaml", tmp_path / "log.txt"
    config.write_text(yaml.safe_dump(experiment.model_dump(mode="json")))
    process = start_job("sweep", "--config", str(config), log=log)
    wait_for(lambda: kept_episodes(run) >= 2 or process.poll() is not None, "two episodes", log)
    assert process.poll() is None, log.read_text()
    # Trials write their own episodes, and outlive their driver by 2 seconds (Ray's agents, which write none, by 60).
    trials = some_descendants(process.pid, "ray::ResourceTrainable", log)
    process.kill()
    process.wait(timeout=30)
    wait_for(lambda: not any(map(is_alive, trials)), "the end of its trials", log)
    kept, begun_before = kept_episodes(run), begun(tmp_path)
    assert not (run.sweep / "done.yaml").exists()
    (tmp_path / "log" / "open").touch()
    sweep(experiment.model_copy(update={"sweep": experiment.sweep.model_copy(update={"episodes": 3})}), run)
    assert begun(tmp_path) == begun_before + 4 * 3 - kept
    assert [row.episodes for row in read_table(run.sweep)] == [3, 3, 3, 3]


@pytest.mark.parametrize(
    ("sweeping", "told"),
    [
        ({"space": {"planning.width": [1]}}, r"has the key 'planning\.width'; expected one of planning\.beam_width, "),
        (
            {"space": {"planning.discount": [0.9]}},
            r"has the key 'planning\.discount'; expected one of planning\.beam_width, ",
        ),
        (
            {"space": {"trajectory_transformer.layers": [1]}},
            r"has the key 'trajectory_transformer\.layers'; expected one of planning\.beam_width, ",
        ),
        (
            {"space": {"decision_transformer.target_return": [1]}},
            r"has the key 'decision_transformer\.target_return'; expected one of planning\.beam_width, ",
        ),
        (
            {"space": {"planning.horizon": [5, 0]}},
            r"tries 0 for planning\.horizon; expected .* greater than or equal to 1\.$",
        ),
        (
            {"space": {"planning.horizon": {"low": 0, "high": 4, "integer": True}}, "search": "random"},
            r"tries 0 for planning\.horizon; expected .* greater than or equal to 1\.$",
        ),
        (
            {"space": {"planning.horizon": {"low": 1, "high": 4}}, "search": "random"},
            r"has a range of fractions for planning\.horizon; expected whole numbers: add integer: true\.$",
        ),
    ],
)
def test_a_space_that_cannot_be_tried_is_refused_before_the_first_episode(
    tmp_path: Path, sweeping: dict[str, Any], told: str
) -> None:
    experiment, run = made(tmp_path, sweep=sweeping)
    with pytest.raises(ConfigError, match=rf"^sweep\.space {told}"):
        sweep(experiment, run)
    assert not run.sweep.exists()


def test_a_setting_that_the_model_cannot_act_by_is_refused_before_the_first_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def require_acting(_: object, acting: PlanningConfig, trained: TrajectoryTransformerConfig) -> None:
        if acting.horizon > trained.window_transitions:
            raise ConfigError("the model does not see so far")

    monkeypatch.setattr(TrajectoryTransformerMethod, "require_acting", require_acting, raising=False)
    experiment, run = made(tmp_path, sweep={"space": {"planning.horizon": [1, 5]}})
    with pytest.raises(ConfigError, match=r"^the model does not see so far$"):
        sweep(experiment, run)
    assert not run.sweep.exists()


def test_the_method_s_own_space_is_tried_where_none_is_given(tmp_path: Path) -> None:
    experiment, _ = made(tmp_path, sweep={"space": None})
    swept = METHODS[experiment.method].swept(experiment.settings, experiment.planning, tiny_manifest())
    given = _with_space(experiment, swept).sweep.space
    assert given == {"planning.beam_width": [32, 64, 128], "planning.horizon": [5, 10, 15]}


def test_a_sweep_that_finds_no_room_says_so(ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment, run = made(tmp_path, evaluation={"cpus_per_actor": 64, "start_timeout_s": 1.0})
    with pytest.raises(ClusterError, match=r"no actor can start here; expected room for 64 CPUs"):
        sweep(experiment, run)
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    with pytest.raises(ClusterError, match=r"no actor has started within .* 1 s; expected room for 64 CPUs"):
        sweep(experiment, run)
    assert begun(tmp_path) == 0


def test_a_search_that_learns_asks_a_cluster_without_nodes_for_one(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr("pipeline.distributed.sweep.run_trials", lambda plan, count, show: asked.append(count) or [])
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    for search in ("grid", "optuna"):
        experiment, run = made(tmp_path / search, evaluation={"cpus_per_actor": 64}, sweep={"search": search})
        sweep(experiment, run)
    assert asked == [4, 1]


def test_a_sweep_that_goes_on_with_another_kind_of_processor_says_so(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment, run = made(tmp_path, sweep={"space": {"planning.horizon": [1, 2]}, "episodes": 1})
    told = "what was swept so far was computed by an abacus, and goes on with a slide rule."
    for horizon, kind in ((1, "an abacus"), (2, "a slide rule")):

        def run_one(plan: TrialPlan, *_: Any, horizon: int = horizon, kind: str = kind) -> list[Exception]:
            setting = {"planning.horizon": horizon}
            trial = SettingTrial.__new__(SettingTrial)
            trial._plan = plan
            trial.reset_config({"setting": setting})
            store = EpisodeStore(plan.folder / setting_key(setting))
            store.add([result("trajectory_transformer", 0, 1.0, computed_by=kind)])
            return [RuntimeError("the other setting failed")]

        monkeypatch.setattr("pipeline.distributed.sweep.run_trials", run_one)
        with pytest.raises(EvaluationError, match="the other setting failed"):
            sweep(experiment, run)
        assert (told in capsys.readouterr().out) is (horizon == 2)


@pytest.mark.slow
def test_early_stopping_ends_some_settings_and_optuna_would_go_on_from_what_is_there(
    ray_session: None, tmp_path: Path
) -> None:
    space = {"planning.beam_width": {"low": 1, "high": 8, "integer": True}, "planning.horizon": [1, 2]}
    settings = {"space": space, "search": "optuna", "samples": 4, "episodes": 6}
    halving = {"early_stopping": True, "report_every": 1}
    experiment, run = made(tmp_path, sweep={**settings, **halving}, evaluation={"num_actors": 1})
    sweep(experiment, run)
    rows = read_table(run.sweep)
    assert 1 <= len(rows) <= 4
    assert any(row.stopped_early for row in rows)
    assert any(not row.stopped_early for row in rows)
    assert begun(tmp_path) == sum(row.episodes for row in rows) < 24
    assert_a_new_search_begins_with(tried_settings(run.sweep), experiment, run)


def assert_a_new_search_begins_with(tried: list[Setting], experiment: Experiment, run: RunFolder) -> None:
    """Their trials read the episodes that are there, as those of a grid do."""
    recipe, swept = tiny_recipe(experiment, run.root), Swept("planning", experiment.planning)
    plan = TrialPlan(recipe, swept, experiment.sweep, run.sweep, experiment.seed, 1, experiment.evaluation)
    space, options = _search(plan)
    options["search_alg"].set_search_properties("objective", "max", space)
    suggested = [options["search_alg"].suggest(str(number))["setting"] for number in range(len(tried) + 5)]
    assert suggested[: len(tried)] == tried
    assert any(setting not in tried for setting in suggested), "it would try nothing new"


@pytest.mark.slow
def test_a_setting_whose_episodes_all_failed_is_told_with_what_to_remove(ray_session: None, tmp_path: Path) -> None:
    halving = {"early_stopping": True, "report_every": 1}
    sweeping = {"space": {"planning.horizon": [1]}, "episodes": 2, **halving}
    experiment, run = made(tmp_path, sweep=sweeping, evaluation={"num_actors": 1})
    broken = experiment.environment.model_copy(update={"kwargs": {"length": 0}})  # its reset divides by it
    folder = run.sweep / setting_key({"planning.horizon": 1})
    told = rf"in every episode of 1 of 1 settings; .* ZeroDivisionError: .* remove {folder}, and run"
    with pytest.raises(EvaluationError, match=told):
        sweep(experiment.model_copy(update={"environment": broken}), run)
    assert len(EpisodeStore(folder).read()) == 2, "the second episode was not tried"
    assert (run.sweep / "table.json").is_file()


@pytest.mark.slow
def test_settings_that_fail_or_hang_do_not_take_the_others_with_them(ray_session: None, tmp_path: Path) -> None:
    """An environment that hangs ends with its process, and is made again in another one."""
    hung, space = tmp_path / "hung", {"planning.plan_every": [1, 7]}
    limits = {"call_timeout_s": 6.0, "max_attempts": 2}
    experiment, run = made(tmp_path, sweep={"space": space, "episodes": 3}, evaluation=limits)
    kwargs = {**experiment.environment.kwargs, "hang_once": str(hung)}
    hanging = experiment.environment.model_copy(update={"kwargs": kwargs})
    with pytest.raises(EvaluationError, match=r"1 settings failed and 1 have episodes; .* planning.plan_every is 7"):
        sweep(experiment.model_copy(update={"environment": hanging}), run)
    assert hung.exists()
    assert [(row.settings["planning.plan_every"], row.episodes) for row in read_table(run.sweep)] == [(1, 3)]
    assert not (run.sweep / "done.yaml").exists()
