import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.acting import Decision, RandomPolicy
from pipeline.collection.config import BehaviourConfig
from pipeline.collection.episodes import CollectedEpisode, Collector
from pipeline.data.spaces import Spaces
from pipeline.environments import EnvironmentConfig, WrapperConfig, make_environment
from pipeline.evaluation.recipe import build_batch
from pipeline.evaluation.rollout import EpisodeBatch, EpisodeStart
from pipeline.records import EpisodeResult
from pipeline.run_folder import RunFolder
from tests.evaluation.counting import ID, SPACES
from tests.evaluation.tiny_run import TIMING_COLUMNS, tiny_experiment, tiny_recipe, write_tiny_checkpoint
from tests.quirks import quirky

STARTS = [EpisodeStart(episode, seed=50 + episode) for episode in range(10)]


class Remembering:
    """Acts with the step number that it was shown, and remembers all that it was told."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.resets: list[tuple[int, int]] = []
        self.shown: list[dict[int, float]] = []
        self.records: list[tuple[int, float, float]] = []

    def reset(self, slot: int, seed: int) -> None:
        self.resets.append((slot, seed))

    def act(self, observations: Mapping[int, NDArray[np.float64]]) -> dict[int, Decision]:
        self.shown.append({slot: float(observation[0]) for slot, observation in observations.items()})
        return {slot: Decision(observation[:1] / 100, 7.5) for slot, observation in observations.items()}

    def record(self, slot: int, action: NDArray[np.float64], reward: float) -> None:
        self.records.append((slot, float(action[0]), reward))


def batch(policy: Any, discount: float = 1.0, recorder: Any = None, **kwargs: Any) -> EpisodeBatch:
    config = EnvironmentConfig(id=ID, kwargs=kwargs)
    return EpisodeBatch(lambda _: make_environment(config), policy, SPACES, "testing", discount, recorder)


def run(slots: int, starts: list[EpisodeStart], **kwargs: Any) -> list[dict[str, Any]]:
    """Runs episodes with the random policy and returns what must not depend on how they were batched."""
    results: list[EpisodeResult] = []
    batch(RandomPolicy(SPACES, slots), **kwargs).run(starts, results.extend)
    rows = [dataclasses.asdict(result) for result in sorted(results, key=lambda result: result.episode)]
    return [{k: v for k, v in row.items() if k not in (*TIMING_COLUMNS, "batch_size")} for row in rows]


@pytest.mark.parametrize("slots", [1, 3, 10])
def test_an_episode_does_not_depend_on_the_batch_size_or_the_order(slots: int) -> None:
    alone = [row for start in STARTS for row in run(1, [start])]
    assert run(slots, STARTS) == alone
    assert run(slots, STARTS[::-1]) == alone


def test_a_return_is_the_sum_of_every_reward_once() -> None:
    policy = Remembering(num_slots=2)
    results: list[EpisodeResult] = []
    batch(policy, discount=0.5).run(STARTS[:3], results.extend)
    for result in results:
        # The action at step t (from 0) is t / 100, its reward t / 100 + t + 1.
        rewards = [step / 100 + step + 1 for step in range(result.length)]
        assert result.total_reward == pytest.approx(sum(rewards))
        assert result.discounted_return == pytest.approx(sum(r * 0.5**t for t, r in enumerate(rewards)))
        assert (result.terminated, result.truncated, result.error) == (True, False, "")
        assert (result.predicted_return, result.success, result.batch_size) == (7.5, None, 2)


def test_a_finished_episode_makes_room_for_a_waiting_one_and_nobody_waits_for_it() -> None:
    policy = Remembering(num_slots=2)
    batch(policy).run(STARTS, lambda _: None)
    assert sorted(seed for _, seed in policy.resets) == [start.seed for start in STARTS]
    busy = [len(shown) for shown in policy.shown]
    last = busy.index(1)  # the first call that shows one slot: nothing waits any more
    assert set(busy[last:]) == {1}, "a slot was free while episodes waited"


def test_the_policy_is_told_of_every_step_but_the_last_which_nothing_follows() -> None:
    policy = Remembering(num_slots=1)
    results: list[EpisodeResult] = []
    batch(policy, length=100).run(STARTS[:1], results.extend)
    assert [shown[0] for shown in policy.shown] == list(range(results[0].length))
    assert [action * 100 for _, action, _ in policy.records] == pytest.approx(list(range(results[0].length - 1)))


def test_success_at_any_step_is_the_episode_s() -> None:
    results: list[EpisodeResult] = []
    batch(RandomPolicy(SPACES, 4), success=True).run(STARTS, results.extend)
    numbers = {start.seed: np.random.default_rng(start.seed).integers(100) for start in STARTS}
    assert {r.seed: r.success for r in results} == {seed: number % 2 == 0 for seed, number in numbers.items()}


def test_an_environment_that_raises_is_one_failed_episode() -> None:
    plain = run(3, STARTS, length=50)
    failing = run(3, STARTS, length=50, raise_at=1)
    failed = [row for row in failing if row["error"]]
    assert 0 < len(failed) < len(STARTS)
    assert all(
        re.fullmatch(r"step 1 raised RuntimeError: the simulation diverged, at counting.py:\d+ in step", row["error"])
        for row in failed
    )
    assert {(row["length"], row["terminated"], row["truncated"]) for row in failed} == {(0, False, False)}
    assert [row for row in failing if not row["error"]] == [
        row for row, other in zip(plain, failing, strict=True) if not other["error"]
    ]


@pytest.mark.parametrize("kind", ["random", "trajectory_transformer"])
@pytest.mark.parametrize(("what", "step"), [("reset", 0), ("observation", 2), ("reward", 2)])
def test_an_environment_that_gives_nan_is_one_failed_episode(tmp_path: Path, kind: str, what: str, step: int) -> None:
    kwargs = {"length": 50, "not_finite": what}
    experiment = tiny_experiment(tmp_path, environment={"kwargs": kwargs})
    checkpoint = write_tiny_checkpoint(RunFolder(tmp_path), experiment)
    results: list[EpisodeResult] = []
    build_batch(tiny_recipe(experiment, checkpoint, kind)).run(STARTS, results.extend)
    failed = [result for result in results if result.error]
    assert 0 < len(failed) < len(results) == len(STARTS)
    named = "reset\\(seed\\) gave the observation" if what == "reset" else f"step {step} gave the {what}"
    for result in failed:
        assert re.fullmatch(rf"{named} .*nan.*; expected finite numbers", result.error)
        assert (result.length, result.terminated) == (max(step - 1, 0), False)
    assert np.isfinite([result.total_reward for result in results]).all()


def played(config: EnvironmentConfig, policy: Any, spaces: Spaces, starts: list[EpisodeStart]) -> list[EpisodeResult]:
    results: list[EpisodeResult] = []
    EpisodeBatch(lambda _: make_environment(config), policy, spaces, "testing", 1.0).run(starts, results.extend)
    return sorted(results, key=lambda result: result.episode)


@pytest.mark.parametrize(
    ("quirk", "error"),
    {
        "": "",
        "shared": "",
        "reward array": "",
        "terminated array": "",
        "reward None": "step 1 gave the reward None; expected one number",
        "reset without info": r"reset\(seed\) gave ndarray; expected \(observation, info\)",
        "step exits": r"step 2 raised SystemExit: the window was closed, at quirks.py:\d+ in step",
        "two truncated": r"step 1 gave truncated as array\(\[False, False\]\); expected True or False",
        "no info": "step 1 gave the info None; expected a dictionary",
        "two successes": r"step 1 gave the success array\(\[ True, True\]\); expected True or False",
    }.items(),
)
def test_an_environment_s_quirk_is_understood_or_costs_the_episode_and_says_so(quirk: str, error: str) -> None:
    spaces = Spaces.plain(3, 1).model_copy(update={"action_low": (-1.0,), "action_high": (1.0,)})
    found, expected = (played(quirky(name), RandomPolicy(spaces, 2), spaces, STARTS[:3]) for name in (quirk, ""))
    assert all(re.fullmatch(error, result.error) for result in found)
    if not error:
        outcomes = [[(e.total_reward, e.length, e.terminated, e.success) for e in row] for row in (found, expected)]
        assert outcomes[0] == outcomes[1]
        assert {(result.length, result.success) for result in found} == {(10, True)}


class Replaying:
    """Repeats the actions of collected episodes, chosen by their seeds."""

    num_slots = 1

    def __init__(self, episodes: list[CollectedEpisode]) -> None:
        self._actions = {episode.seed: episode.actions for episode in episodes}

    def reset(self, slot: int, seed: int) -> None:
        self._left = iter(self._actions[seed])

    def act(self, observations: Mapping[int, NDArray[np.float64]]) -> dict[int, Decision]:
        return {0: Decision(next(self._left))}

    def record(self, slot: int, action: NDArray[np.float64], reward: float) -> None:
        pass


def test_behaviour_has_the_same_return_collected_and_evaluated_through_a_wrapper_that_gathers_statistics() -> None:
    config = EnvironmentConfig(
        id="InvertedPendulum-v5", max_episode_steps=20, wrappers=(WrapperConfig(name="NormalizeReward"),)
    )
    collector = Collector(config, [BehaviourConfig()], 0)
    episodes = [collector.collect(number) for number in range(4)]
    starts = [EpisodeStart(number, seed=episode.seed) for number, episode in enumerate(episodes)]
    results = played(config, Replaying(episodes), Spaces.plain(4, 1), starts)
    assert [result.total_reward for result in results] == [episode.rewards.sum() for episode in episodes]


def test_an_environment_that_raises_when_closed_keeps_its_result(caplog: pytest.LogCaptureFixture) -> None:
    assert run(2, STARTS[:3], raise_on_close=True) == run(2, STARTS[:3])
    assert caplog.text.count("raised when it was closed: RuntimeError: the window is gone, at counting.py") == 3
    running = batch(RandomPolicy(SPACES, 2), length=100, raise_on_close=True)
    running.advance(STARTS[:2], seconds=0.0)
    running.close()
    assert running.running == 0


def test_advance_returns_after_its_time_and_goes_on_where_it_was() -> None:
    policy = Remembering(num_slots=1)
    running = batch(policy, length=100)
    assert running.advance(STARTS[:1], seconds=0.0) == []
    assert running.running == 1
    results: list[EpisodeResult] = []
    while not results:
        results = running.advance([], seconds=0.0)
    assert results[0].length == len(policy.shown)
    assert running.times.steps == len(policy.shown)


def test_a_recorder_sees_every_step_of_its_episode_and_is_closed() -> None:
    class Recorder:
        def __init__(self) -> None:
            self.rewards: list[float] = []
            self.closed = 0

        def record(self, environment: Any, decision: Decision, reward: float) -> None:
            self.rewards.append(reward)

        def close(self) -> None:
            self.closed += 1

    recorder = Recorder()
    results: list[EpisodeResult] = []
    recorded = batch(Remembering(2), recorder=lambda start: recorder if start.episode == 1 else None)
    recorded.run(STARTS[:3], results.extend)
    assert sum(recorder.rewards) == next(result.total_reward for result in results if result.episode == 1)
    assert recorder.closed == 1


def test_attempts_are_those_of_the_start() -> None:
    results = batch(Remembering(1)).advance([EpisodeStart(0, seed=1, attempt=3)], seconds=60.0)
    assert [result.attempts for result in results] == [3]


def test_closing_a_batch_drops_what_runs(tmp_path: Path) -> None:
    running = batch(Remembering(2), length=100)
    running.advance(STARTS[:2], seconds=0.0)
    running.close()
    assert running.running == 0
