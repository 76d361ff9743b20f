"""The rules between the sections, with a second method whose section is made up here."""

from pathlib import Path
from typing import Any, ClassVar

import pytest

from pipeline.configuration import claim_folder
from pipeline.environments import EnvironmentConfig
from pipeline.errors import ConfigError
from pipeline.experiment import Experiment, Stage, as_made, stage_identity
from pipeline.methods.settings import MethodSettings
from pipeline.options import parse
from pipeline.run_folder import RunFolder


class CrystalBall(MethodSettings):
    """A method that acts in one way."""

    row_kinds: ClassVar[dict[str, str]] = {"gaze": "Crystal ball"}
    default_rows: ClassVar[tuple[str, ...]] = ("gaze",)

    width: int = 3


class Entire(Experiment):
    """An experiment that knows both methods."""

    crystal_ball: CrystalBall = CrystalBall()


def entire(**sections: Any) -> Entire:
    return Entire.model_validate(sections)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--method", "oracle"], r"method is 'oracle'; expected one of trajectory_transformer, .*crystal_ball\."),
        (
            ["--evaluation.rows", "[random, gaze]"],
            r"evaluation\.rows has 'gaze'; expected some of random, one_step, imitation, trajectory_transformer, as "
            r"trajectory_transformer can act\.",
        ),
        (
            ["--method", "crystal_ball", "--evaluation.rows", "[one_step]"],
            r"evaluation\.rows has 'one_step'; expected some of random, gaze, as crystal_ball can act\.",
        ),
        (
            ["--evaluation.rows", "[one_stop]"],
            r"evaluation\.rows has 'one_stop'; expected some of random, one_step, .*",
        ),
    ],
)
def test_a_method_or_a_row_that_is_none_is_told_with_those_that_are(arguments: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=f"^{told}$"):
        parse(Entire(), "", arguments)


@pytest.mark.parametrize(("store", "method"), [("values", "trajectory_transformer"), ("tokens", "crystal_ball")])
def test_shards_that_would_not_hold_what_is_read_are_refused_before_anything_is_made(store: str, method: str) -> None:
    with pytest.raises(ValueError, match=rf"data\.store is '{store}'; expected 'both' or .*, which {method} learns"):
        entire(method=method, data={"store": store})
    other = "trajectory_transformer" if method == "crystal_ball" else "crystal_ball"
    assert entire(method=other, data={"store": store}).data.store == store


def test_the_rows_are_those_that_are_asked_for_once_each_or_those_of_the_method() -> None:
    assert entire().row_kinds == ("random", "one_step", "trajectory_transformer")
    assert entire(method="crystal_ball").row_kinds == ("random", "gaze")
    assert entire(evaluation={"rows": ["imitation", "random", "imitation"]}).row_kinds == ("imitation", "random")


@pytest.mark.parametrize("method", ["trajectory_transformer", "crystal_ball"])
def test_a_training_is_known_by_its_method_and_that_method_s_section_alone(method: str) -> None:
    identity = stage_identity(entire(method=method), "train")
    assert identity.keys() == {"seed", "method", "training", method}
    assert identity["method"] == method
    for section in {"trajectory_transformer", "crystal_ball"} - {method}:
        assert stage_identity(entire(method=method, **{section: {"width": 8}}), "train") == identity
    assert stage_identity(entire(method=method, **{method: {"width": 8}}), "train") != identity


def test_workers_are_part_of_no_stage_s_identity() -> None:
    stages: tuple[Stage, ...] = ("collect", "prepare", "train")
    for stage in stages:
        assert stage_identity(entire(workers={"number": [2, 4], "gpus": 1}), stage) == stage_identity(entire(), stage)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"training": {"select_by": "loss_acton"}},
            r"training\.select_by is 'loss_acton'; expected one of loss, loss_observation, loss_action, .*, "
            r"accuracy_value, which trajectory_transformer measures\.",
        ),
        (
            {"training": {"select_by": "loss_action"}, "method": "behaviour_cloning"},
            r"training\.select_by is 'loss_action'; expected one of loss, accuracy_action, which behaviour_cloning mea",
        ),
        (
            {"training": {"select_by": "accuracy_action"}, "method": "crystal_ball"},
            r"training\.select_by is 'accuracy_action'; expected one of loss, which crystal_ball measures\.",
        ),
        (
            {"training": {"select_by": "loss_action"}, "data": {"validation_share": 0.0}},
            r"training\.select_by is 'loss_action', and no episodes are held out to measure it on; expected some",
        ),
    ],
)
def test_what_checkpoints_cannot_be_selected_by_is_refused_with_what_they_can(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        entire(**given)


def test_the_loss_selects_also_where_no_episodes_are_held_out() -> None:
    assert entire(data={"validation_share": 0.0}).training.select_by == "loss"


@pytest.mark.parametrize(("made", "given"), [("loss_action", "loss"), ("loss", "loss_action"), (None, "loss_action")])
def test_the_record_keeps_what_checkpoints_were_selected_by(tmp_path: Path, made: str | None, given: str) -> None:
    """Before there was a choice it was the loss."""
    identity = stage_identity(entire(training={"select_by": made or "loss"}), "train")
    if made is None:
        del identity["training"]["select_by"]
    claim_folder(RunFolder(tmp_path).checkpoints, identity, "checkpoints")
    written = as_made(entire(training={"select_by": given}), RunFolder(tmp_path))
    assert written["training"]["select_by"] == (made or "loss")


def test_every_micro_batch_has_a_window() -> None:
    with pytest.raises(
        ValueError, match=r"training\.batch_size is 7; expected at least 8, one window.* 4 workers \* .* 2"
    ):
        entire(workers={"number": (1, 4)}, training={"accumulation_steps": 2, "batch_size": 7})


def test_rules_of_a_planner_bind_no_other_method() -> None:
    planning = {"discount": 0.9, "context_transitions": 50}
    assert entire(method="crystal_ball", planning=planning).planning.discount == 0.9
    with pytest.raises(ValueError, match=r"planning\.context_transitions is 50; expected less than trajectory_transf"):
        entire(planning=planning)


def test_the_record_keeps_method_settings_and_planning_of_what_was_made(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    made = entire(seed=3, trajectory_transformer={"width": 64}, planning={"beam_width": 16})
    claim_folder(run.checkpoints, {**stage_identity(made, "train"), "shards": "abc"}, "checkpoints")
    row = {"seed": 5, "row": "trajectory_transformer", "acting": made.planning.model_dump(mode="json")}
    claim_folder(run.episodes("trajectory_transformer"), row, "episodes")
    given = entire(
        seed=7,
        method="crystal_ball",
        trajectory_transformer={"width": 32},
        crystal_ball={"width": 9},
        planning={"beam_width": 8},
        training={"keep_best": 2},
        workers={"number": 2},
    )
    written = Entire.model_validate(as_made(given, run))
    assert (written.seed, written.method, written.settings) == (3, made.method, made.settings)
    assert written.planning == made.planning
    assert written.crystal_ball.width == 9, "nothing was made with it"
    assert (written.training.keep_best, written.workers.number) == (2, 2), "they change how it runs, not what it gave"


def test_the_record_keeps_the_environment_that_any_row_was_evaluated_in(tmp_path: Path) -> None:
    """Given data says nothing of it, and other methods have no row of the planner's name."""
    run = RunFolder(tmp_path)
    evaluated = EnvironmentConfig(id="Reacher-v5", max_episode_steps=9)
    claim_folder(run.episodes("gaze"), {"row": "gaze", "environment": evaluated.identity()}, "episodes")
    written = Entire.model_validate(as_made(entire(method="crystal_ball"), run))
    assert written.environment == evaluated


@pytest.mark.parametrize(("steps", "recorded"), [(5, 5), (20, None)])
def test_the_record_keeps_how_a_model_that_is_asked_for_returns_acted(
    tmp_path: Path, steps: int, recorded: int | None
) -> None:
    run = RunFolder(tmp_path)
    acting = {"target_return": 3.0, "context_steps": steps, "sample_actions": False}
    row = {"row": "decision_transformer@3", "method": "decision_transformer", "acting": acting}
    claim_folder(run.episodes("decision_transformer@3"), row, "episodes")
    given = entire(method="decision_transformer", decision_transformer={"target_returns": 7.0, "acting_steps": 2})
    written = Entire.model_validate(as_made(given, run)).decision_transformer
    assert (written.acting_steps, written.sample_actions, written.target_returns) == (recorded, False, 7.0)
