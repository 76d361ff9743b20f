import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from pipeline.distributed import actor_pool
from pipeline.distributed.pool import PoolFacts, RolloutPool, wanted_actors
from pipeline.environments import EnvironmentConfig
from pipeline.errors import ClusterError, EnvironmentSetupError, EvaluationError, StorageError
from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.recipe import Recipe, build_batch
from pipeline.evaluation.rollout import EpisodeStart
from pipeline.records import EpisodeResult
from tests.conftest import REPOSITORY
from tests.evaluation.counting import ID, SPACES
from tests.evaluation.tiny_run import TIMING_COLUMNS

pytestmark = pytest.mark.ray

STARTS = [EpisodeStart(episode, seed=50 + episode) for episode in range(12)]


def recipe(num_slots: int = 3, **kwargs: Any) -> Recipe:
    return Recipe(
        row="random",
        environment=EnvironmentConfig(id=ID, kwargs=kwargs),
        spaces=SPACES,
        discount=0.99,
        num_slots=num_slots,
    )


def facts_of(results: list[EpisodeResult]) -> list[dict[str, Any]]:
    """What must be equal to the bit whatever the pool went through, in order of the episodes."""
    rows = [dataclasses.asdict(result) for result in sorted(results, key=lambda result: result.episode)]
    return [
        # As text: NaN, a prediction that the random method does not make, is not equal to itself.
        {name: repr(value) if isinstance(value, float) else value for name, value in row.items()}
        for row in ({name: row[name] for name in row if name not in TIMING_COLUMNS} for row in rows)
    ]


def undisturbed(starts: list[EpisodeStart], **kwargs: Any) -> list[dict[str, Any]]:
    results: list[EpisodeResult] = []
    build_batch(recipe(**kwargs)).run(starts, results.extend)
    return facts_of(results)


def run(
    num_actors: int,
    what: Recipe,
    results: list[EpisodeResult],
    config: EvaluationConfig | None = None,
    starts: list[EpisodeStart] = STARTS,
) -> PoolFacts:
    with RolloutPool(config or EvaluationConfig(), num_actors) as pool:
        return pool.run(what, starts, results.extend, lambda facts: None)


def test_two_actors_give_the_same_results_as_none(ray_session: None) -> None:
    results: list[EpisodeResult] = []
    facts = run(2, recipe(), results)
    assert facts_of(results) == undisturbed(STARTS)
    assert facts.times.steps == sum(result.length for result in results)


def test_a_killed_actor_costs_only_its_running_episodes(ray_session: None, tmp_path: Path) -> None:
    results: list[EpisodeResult] = []
    killing = recipe(kill_once=str(tmp_path / "killed"))
    facts = run(2, killing, results)
    assert facts_of(results) == undisturbed(STARTS)
    assert facts.lost_actors == 1
    assert 1 <= sum(result.attempts == 2 for result in results) <= 3


def test_an_episode_that_kills_its_process_fails_alone(ray_session: None) -> None:
    fatal_one = next(row for row in undisturbed(STARTS, length=100) if row["length"] > 1)
    fatal = recipe(length=100, kill_number=fatal_one["length"] - 1)
    results: list[EpisodeResult] = []
    with pytest.raises(EvaluationError, match=r"lost their actor on each of 2 attempts; expected them to end") as error:
        run(2, fatal, results, EvaluationConfig(max_attempts=2))
    left = {start.episode for start in STARTS} - {result.episode for result in results}
    assert f"episodes {sorted(left)} lost" in str(error.value)
    assert fatal_one["episode"] in left
    kept = [start for start in STARTS if start.episode not in left]
    assert len(kept) >= len(STARTS) - 2
    assert facts_of(results) == undisturbed(kept, length=100)


def test_an_episode_that_kills_its_process_fails_alone_on_the_only_attempt_too(ray_session: None) -> None:
    short, long = (row for row in undisturbed(STARTS[:2], length=100))
    fatal = recipe(length=100, kill_number=max(short["length"], long["length"]) - 1)
    results: list[EpisodeResult] = []
    with pytest.raises(EvaluationError, match=r"lost their actor on each of 1 attempts"):
        run(1, fatal, results, EvaluationConfig(max_attempts=1), STARTS[:2])
    assert len(results) == 1


def test_an_actor_that_does_not_answer_is_given_up(ray_session: None) -> None:
    config = EvaluationConfig(max_attempts=1, call_timeout_s=1.0)
    with pytest.raises(EvaluationError, match="lost their actor on each of 1 attempts"):
        run(1, recipe(seconds=60.0), [], config, STARTS[:1])


def test_the_episodes_of_an_actor_that_hangs_are_run_again(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, real = tmp_path / "hangs", actor_pool.time.monotonic
    # The limits are over as soon as it hangs, for the only actor and for the start of another one alike.
    late = SimpleNamespace(monotonic=lambda: real() + (3600 if hangs.exists() else 0))
    monkeypatch.setattr(actor_pool, "time", late)
    results: list[EpisodeResult] = []
    facts = run(1, recipe(hang_once=str(hangs)), results)
    assert facts_of(results) == undisturbed(STARTS)
    assert facts.lost_actors == 1


def test_a_run_that_was_broken_off_leaves_nothing_to_the_next(ray_session: None) -> None:
    def refuse(_: list[EpisodeResult]) -> None:
        raise StorageError("no room")

    results: list[EpisodeResult] = []
    with RolloutPool(EvaluationConfig(), 2) as pool:
        with pytest.raises(StorageError, match="no room"):
            pool.run(recipe(length=20), STARTS, refuse, lambda facts: None)
        pool.run(recipe(), STARTS, results.extend, lambda facts: None)
    assert facts_of(results) == undisturbed(STARTS)
    assert {result.attempts for result in results} == {1}


def test_a_pool_that_finds_no_room_says_so(ray_session: None) -> None:
    config = EvaluationConfig(cpus_per_actor=64, start_timeout_s=1.0)
    with pytest.raises(
        ClusterError,
        match=r"started within evaluation.start_timeout_s, 1 s; expected room for 64 CPUs and 0 GPUs. The cluster has "
        r"1 node with 2 CPUs and \d+ GPUs?, of which \d CPUs? and",
    ):
        run(1, recipe(), [], config)


def test_a_pool_goes_on_with_another_recipe_and_what_is_wrong_with_one_reaches_the_user_as_it_is(
    ray_session: None,
) -> None:
    wrong = recipe().model_copy(update={"environment": EnvironmentConfig(id="Hopper-v5")})
    first: list[EpisodeResult] = []
    second: list[EpisodeResult] = []
    with RolloutPool(EvaluationConfig(), 1) as pool:
        pool.run(recipe(), STARTS, first.extend, lambda facts: None)
        pool.run(recipe(num_slots=2, length=20), STARTS, second.extend, lambda facts: None)
        with pytest.raises(EnvironmentSetupError, match=r"id is 'Hopper-v5'; expected the spaces of the data"):
            pool.run(wrong, STARTS, second.extend, lambda facts: None)
    assert facts_of(first) == undisturbed(STARTS)
    assert facts_of(second) == undisturbed(STARTS, num_slots=2, length=20)


def test_actors_never_have_more_cpus_than_the_machine(ray_session: None) -> None:
    assert wanted_actors(EvaluationConfig(), useful=9, can_grow=False) == 2
    assert wanted_actors(EvaluationConfig(cpus_per_actor=2), useful=9, can_grow=False) == 1
    assert wanted_actors(EvaluationConfig(), useful=1, can_grow=False) == 1


@pytest.mark.parametrize("settings", [{"cpus_per_actor": 64}, {"gpus_per_actor": 0.5, "num_actors": 3}])
def test_a_machine_without_room_for_one_actor_is_not_waited_for(ray_session: None, settings: dict[str, Any]) -> None:
    if settings.get("gpus_per_actor") and ray.cluster_resources().get("GPU"):
        pytest.skip("this machine has a GPU, and so has room")
    with pytest.raises(ClusterError, match=r"no actor can start here; expected room for \d+ CPUs? and [\d.]+ GPUs"):
        wanted_actors(EvaluationConfig(**settings), useful=9, can_grow=False)
    assert wanted_actors(EvaluationConfig(**settings), useful=2, can_grow=True) == 2


def test_a_cluster_that_grows_is_asked_for_all_actors_that_get_something_to_do() -> None:
    assert wanted_actors(EvaluationConfig(), useful=9, can_grow=True) == 9


@pytest.mark.parametrize("can_grow", [False, True])
def test_the_configured_number_of_actors_is_the_most(ray_session: None, can_grow: bool) -> None:
    assert wanted_actors(EvaluationConfig(num_actors=5), useful=9, can_grow=can_grow) == 5
    assert wanted_actors(EvaluationConfig(num_actors=5), useful=3, can_grow=can_grow) == 3


@pytest.mark.cluster
@pytest.mark.slow
def test_a_lost_node_costs_only_its_running_episodes() -> None:
    slow = recipe(seconds=0.3)
    starts = json.dumps([dataclasses.asdict(start) for start in STARTS])
    command = [sys.executable, "-m", "tests.distributed.node_loss", slow.model_dump_json(), starts]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["removed"] == 1
    assert told["lost_actors"] >= 1
    results = [EpisodeResult(**row) for row in told["results"]]
    assert facts_of(results) == undisturbed(STARTS)
    assert any(result.attempts > 1 for result in results)
