from pathlib import Path

import numpy as np
import pytest

from pipeline.acting import RandomPolicy
from pipeline.data.d4rl_source import D4rlSource
from pipeline.data.returns import RewardTreatment
from pipeline.evaluation.recipe import Recipe, build_batch, build_policy
from pipeline.evaluation.rollout import EpisodeStart
from pipeline.records import EpisodeResult
from pipeline.run_folder import RunFolder
from tests.data.test_d4rl_source import write_d4rl
from tests.evaluation.tiny_run import tiny_experiment, tiny_recipe, write_tiny_checkpoint


def recipe(tmp_path: Path, kind: str = "trajectory_transformer", seed: int = 0) -> Recipe:
    experiment = tiny_experiment(tmp_path)
    checkpoint = write_tiny_checkpoint(RunFolder(tmp_path / str(seed)), experiment, seed)
    return tiny_recipe(experiment, checkpoint, kind)


@pytest.mark.parametrize("kind", ["random", "one_step", "imitation", "trajectory_transformer"])
def test_a_recipe_crosses_processes_as_json_and_every_row_acts(tmp_path: Path, kind: str) -> None:
    sent = Recipe.model_validate_json(recipe(tmp_path, kind).model_dump_json())
    results: list[EpisodeResult] = []
    build_batch(sent).run([EpisodeStart(i, seed=i) for i in range(3)], results.extend)
    assert {(result.method, result.error) for result in results} == {(kind, "")}


def test_the_environment_bounds_random_actions_where_the_data_does_not_as_d4rl_s_files(tmp_path: Path) -> None:
    bounded, spaces = recipe(tmp_path, "random"), D4rlSource.open(write_d4rl(tmp_path / "a.hdf5")).spaces
    assert spaces.action_low is None
    rewards = []
    for one in (bounded, bounded.model_copy(update={"spaces": spaces})):
        results: list[EpisodeResult] = []
        build_batch(one).run([EpisodeStart(i, seed=i) for i in range(3)], results.extend)
        rewards.append([result.total_reward for result in results])
    assert rewards[0] == rewards[1]


@pytest.mark.parametrize(
    ("kind", "horizon", "ranking"),
    [
        ("one_step", 1, "log_likelihood"),
        ("imitation", 2, "log_likelihood"),
        ("trajectory_transformer", 2, "predicted_return"),
    ],
)
def test_a_row_looks_so_far_ahead_and_ranks_so(tmp_path: Path, kind: str, horizon: int, ranking: str) -> None:
    made = recipe(tmp_path, kind)
    assert (made.acting["horizon"], made.acting["ranking"], made.acting["beam_width"]) == (horizon, ranking, 4)
    policy = build_policy(made)
    policy.reset(0, seed=1)
    plan = policy.act({0: np.zeros(2)})[0].plan
    assert plan is not None
    assert len(plan.actions) == horizon


def test_rows_of_one_model_are_never_taken_for_each_other(tmp_path: Path) -> None:
    identities = [recipe(tmp_path, kind).identity() for kind in ("one_step", "imitation", "trajectory_transformer")]
    assert len({repr(identity["acting"]) for identity in identities}) == 3
    assert len({repr(identity["model"]) for identity in identities}) == 1


def test_a_planner_s_identity_has_its_model_s_content_but_not_its_place(tmp_path: Path) -> None:
    first = recipe(tmp_path / "first")
    moved = recipe(tmp_path / "second")
    assert first.checkpoint != moved.checkpoint
    assert first.identity() == moved.identity()
    assert first.identity() != recipe(tmp_path / "first", seed=1).identity()


def test_the_random_policy_s_identity_has_no_model_but_the_discount_of_its_returns(tmp_path: Path) -> None:
    random = recipe(tmp_path, "random")
    assert random.identity().keys() == {"row", "environment", "discount"}
    assert random.discount == 0.99
    assert random.model_copy(update={"discount": 0.5}).identity() != random.identity()


@pytest.mark.parametrize("delayed", [False, True])
def test_a_policy_whose_data_had_late_rewards_is_told_none_but_the_results_have_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delayed: bool
) -> None:
    told: list[float] = []

    class Listening(RandomPolicy):
        def record(self, slot: int, action: np.ndarray, reward: float) -> None:
            told.append(reward)

    monkeypatch.setattr("pipeline.evaluation.recipe.build_policy", lambda one: Listening(one.spaces, one.num_slots))
    experiment, treatment = tiny_experiment(tmp_path), RewardTreatment(discount=0.99, delayed=delayed)
    made = tiny_recipe(experiment, write_tiny_checkpoint(RunFolder(tmp_path), experiment), treatment=treatment)
    results: list[EpisodeResult] = []
    build_batch(made).run([EpisodeStart(i, seed=i) for i in range(3)], results.extend)
    assert len(told) == sum(result.length - 1 for result in results) > 3
    assert (set(told) == {0.0}) is delayed
    for result in results:
        last = 0.99 ** (result.length - 1) * result.total_reward
        assert (result.discounted_return == pytest.approx(last)) is delayed
    # The reward of a step is its number and the action, from -1 to 1.
    for result in results:
        assert abs(result.total_reward - result.length * (result.length + 1) / 2) <= result.length
