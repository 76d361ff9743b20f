from pathlib import Path

import pytest

from pipeline.data.d4rl_source import D4rlSource
from pipeline.evaluation.config import EvaluationConfig, MethodName
from pipeline.evaluation.methods import MethodRecipe, build_batch, method_recipe
from pipeline.evaluation.rollout import EpisodeStart
from pipeline.records import EpisodeResult
from pipeline.run_folder import RunFolder
from tests.data.test_d4rl_source import write_d4rl
from tests.evaluation.counting import SPACES
from tests.evaluation.tiny_run import tiny_experiment, write_tiny_checkpoint


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


def test_the_environment_bounds_random_actions_where_the_data_does_not_as_d4rl_s_files(tmp_path: Path) -> None:
    bounded, spaces = recipe(tmp_path, "random"), D4rlSource.open(write_d4rl(tmp_path / "a.hdf5")).spaces
    assert spaces.action_low is None
    rewards = []
    for one in (bounded, bounded.model_copy(update={"spaces": spaces})):
        results: list[EpisodeResult] = []
        build_batch(one).run([EpisodeStart(i, seed=i) for i in range(3)], results.extend)
        rewards.append([result.total_reward for result in results])
    assert rewards[0] == rewards[1]


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
