from pathlib import Path
from typing import Any

import gymnasium
import pytest

from pipeline.environments import EnvironmentConfig, WrapperConfig
from pipeline.errors import EnvironmentSetupError
from pipeline.evaluation.config import EvaluationConfig, MethodName
from pipeline.evaluation.methods import MethodRecipe, build_batch, check_environment, method_recipe
from pipeline.evaluation.rollout import EpisodeStart
from pipeline.records import EpisodeResult
from pipeline.run_folder import RunFolder
from tests.evaluation.counting import ID, SPACES, Counting
from tests.evaluation.tiny_run import tiny_experiment, write_tiny_checkpoint

gymnasium.register("Endless-v0", Counting)


def recipe(tmp_path: Path, method: MethodName = "trajectory_transformer", seed: int = 0) -> MethodRecipe:
    experiment = tiny_experiment(tmp_path)
    checkpoint = write_tiny_checkpoint(RunFolder(tmp_path / str(seed)), experiment, seed)
    return method_recipe(method, experiment.environment, experiment.planning, EvaluationConfig(), SPACES, checkpoint)


@pytest.mark.parametrize("method", ["random", "behaviour_cloning", "trajectory_transformer"])
def test_a_recipe_crosses_processes_as_json_and_every_method_acts(tmp_path: Path, method: MethodName) -> None:
    sent = MethodRecipe.model_validate_json(recipe(tmp_path, method).model_dump_json())
    results: list[EpisodeResult] = []
    build_batch(sent).run([EpisodeStart(i, seed=i) for i in range(3)], results.extend)
    assert {(result.method, result.error) for result in results} == {(method, "")}


def test_behaviour_cloning_looks_one_step_ahead_by_likelihood(tmp_path: Path) -> None:
    cloning = recipe(tmp_path, "behaviour_cloning").planning
    assert (cloning.horizon, cloning.ranking, cloning.beam_width) == (1, "log_likelihood", 4)


def test_a_planner_s_identity_has_its_model_s_content_but_not_its_place(tmp_path: Path) -> None:
    first = recipe(tmp_path / "first")
    moved = recipe(tmp_path / "second")
    assert first.checkpoint != moved.checkpoint
    assert first.identity() == moved.identity()
    assert first.identity() != recipe(tmp_path / "first", seed=1).identity()


def test_the_random_policy_s_identity_has_no_model_but_the_discount_of_its_returns(tmp_path: Path) -> None:
    random = recipe(tmp_path, "random")
    assert random.identity().keys() == {"method", "environment", "discount"}
    planning = random.planning.model_copy(update={"discount": 0.5})
    assert random.model_copy(update={"planning": planning}).identity() != random.identity()


def check(spaces: Any = SPACES, **environment: Any) -> None:
    check_environment(EnvironmentConfig(**{"id": ID, **environment}), spaces)


def test_the_data_s_own_environment_fits() -> None:
    check()


def test_an_environment_with_other_spaces_is_refused_with_what_differs() -> None:
    with pytest.raises(
        EnvironmentSetupError,
        match=r"'Pendulum-v1'; expected the spaces of the data: observation_sizes is \(3,\), in the data \(2,\)",
    ):
        check(id="Pendulum-v1")


def test_an_environment_with_spaces_that_are_not_supported_is_refused() -> None:
    with pytest.raises(EnvironmentSetupError, match=r"'Blackjack-v1'; expected .* the spaces of the data: .* Tuple"):
        check(id="Blackjack-v1")


def test_an_environment_that_might_never_end_is_refused() -> None:
    with pytest.raises(EnvironmentSetupError, match="max_episode_steps is null; expected a number of steps"):
        check(id="Endless-v0")
    check(id="Endless-v0", max_episode_steps=5)
    check(id="Endless-v0", wrappers=(WrapperConfig(name="TimeLimit", kwargs={"max_episode_steps": 5}),))
