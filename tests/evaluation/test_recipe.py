from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.acting import RandomPolicy
from pipeline.data.d4rl_source import D4rlSource
from pipeline.data.returns import RewardTreatment
from pipeline.data.spaces import Spaces
from pipeline.environments import WrapperConfig
from pipeline.errors import EnvironmentSetupError
from pipeline.evaluation.recipe import Recipe, build_batch, build_policy
from pipeline.evaluation.rollout import EpisodeStart
from pipeline.methods.trajectory_transformer.policy import PlannerPolicy
from pipeline.records import EpisodeResult
from pipeline.run_folder import RunFolder
from tests.data.test_d4rl_source import write_d4rl
from tests.evaluation.tiny_run import tiny_experiment, tiny_recipe, write_tiny_checkpoint
from tests.quirks import quirky


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


def test_random_actions_are_the_environment_s_whatever_the_data_s_bounds(tmp_path: Path) -> None:
    bounded, unknown = recipe(tmp_path, "random"), D4rlSource.open(write_d4rl(tmp_path / "a.hdf5")).spaces
    assert unknown.action_low is None
    narrower = bounded.spaces.model_copy(update={"action_low": (-0.1,), "action_high": (0.1,)})
    rewards = []
    for one in (bounded, *(bounded.model_copy(update={"spaces": spaces}) for spaces in (unknown, narrower))):
        results: list[EpisodeResult] = []
        build_batch(one).run([EpisodeStart(i, seed=i) for i in range(3)], results.extend)
        rewards.append([result.total_reward for result in results])
    assert rewards[0] == rewards[1] == rewards[2]


class Whole(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Takes the whole numbers from -1 to 1, and notes them."""

    taken: ClassVar[list[NDArray[np.int32]]] = []

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.action_space = gymnasium.spaces.Box(-1, 1, (1,), np.int32)

    def step(self, action: NDArray[np.int32]) -> Any:
        self.taken.append(action)
        return self.env.step(action)


def test_a_policy_is_told_the_whole_number_that_the_environment_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its data has fractions, as a D4RL file of such an environment may have."""
    told: list[float] = []
    monkeypatch.setattr(PlannerPolicy, "record", lambda _policy, _slot, action, _reward: told.append(float(action[0])))
    fractions = recipe(tmp_path)
    environment = fractions.environment.model_copy(update={"wrappers": (WrapperConfig(name=f"{__name__}:Whole"),)})
    Whole.taken.clear()
    results: list[EpisodeResult] = []
    made = build_batch(fractions.model_copy(update={"environment": environment, "num_slots": 1}))
    made.run([EpisodeStart(i, seed=i) for i in range(4)], results.extend)
    assert {action.dtype.name for action in Whole.taken} == {"int32"}
    given = [float(action[0]) for action in Whole.taken]
    ends = np.cumsum([result.length for result in results]) - 1
    # Of an episode's last step nobody is told.
    assert told == [action for step, action in enumerate(given) if step not in ends]
    assert set(given) == {-1.0, 0.0}


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


def test_films_of_an_environment_that_cannot_draw_are_refused_by_their_setting(tmp_path: Path) -> None:
    spaces = Spaces.plain(3, 1).model_copy(update={"action_low": (-1.0,), "action_high": (1.0,)})
    made = recipe(tmp_path, "random").model_copy(
        update={"environment": quirky("cannot draw"), "spaces": spaces, "videos": 2, "video_folder": str(tmp_path)}
    )
    with pytest.raises(
        EnvironmentSetupError, match=r"^evaluation.videos is 2; expected 0 .*: environment.id is .*rgb_arr"
    ):
        build_batch(made).run([EpisodeStart(0, seed=0)], lambda _: None)
    results: list[EpisodeResult] = []
    build_batch(made.model_copy(update={"videos": 0})).run([EpisodeStart(0, seed=0)], results.extend)
    assert [result.error for result in results] == [""]


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
