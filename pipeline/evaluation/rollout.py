"""Episodes in lock step: one call of the policy decides for all environments of a batch.

Knows nothing of Ray, of checkpoints, or of where results go. What an episode gives depends on its seed and the policy
alone, so the caller may hand episodes to any number of batches in any order.

Shape letters: O observation_dim, A action_dim.
"""

import math
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import gymnasium
import numpy as np
from numpy.typing import NDArray

from pipeline.acting import Decision, Policy
from pipeline.data.spaces import Spaces
from pipeline.environments import close_environment
from pipeline.errors import EnvironmentFaultError
from pipeline.live_episode import LiveEpisode, truth
from pipeline.records import EpisodeResult
from pipeline.seeding import derived_seed

Environment: TypeAlias = gymnasium.Env[Any, Any]


@dataclass(frozen=True)
class EpisodeStart:
    """An episode that waits for a slot.

    Attributes:
        episode: Index of the episode.
        seed: Seed of the environment's reset and of the policy's random numbers.
        attempt: 1 for the first start, one more after each lost actor.
    """

    episode: int
    seed: int
    attempt: int = 1


def episode_starts(root_seed: int, purpose: str, episodes: Iterable[int]) -> list[EpisodeStart]:
    """Returns the starts of episodes; each seed depends on root seed, purpose and the episode's index alone.

    All methods get the same seeds: compared on the same initial states, they differ by what they do.
    """
    return [EpisodeStart(episode, derived_seed(root_seed, purpose, episode)) for episode in episodes]


class EpisodeRecorder(Protocol):
    """Watches one episode, for a video or a trace; what goes wrong with it stays its own, so it must not raise."""

    def record(self, environment: Environment, decision: Decision, reward: float) -> None:
        """Takes note of one step, after the environment made it."""

    def close(self) -> None:
        """Writes what was recorded; the episode is over."""


@dataclass
class RolloutTimes:
    """Where a batch spent its time, in seconds of wall clock, and how many environment steps it made."""

    policy: float = 0.0
    environment: float = 0.0
    steps: int = 0


@dataclass
class _Running:
    start: EpisodeStart
    environment: Environment
    live: LiveEpisode
    recorder: EpisodeRecorder | None
    rewards: list[float] = field(default_factory=list)
    decision_ms: list[float] = field(default_factory=list)
    predicted_return: float = math.nan
    success: bool | None = None
    terminated: bool = False
    truncated: bool = False


class EpisodeBatch:
    """As many environments as the policy has slots, stepped together.

    Every episode gets a new environment: what an earlier episode left in one can then never reach a later one, and an
    environment that raised takes nothing with it. Collection does the same.

    Args:
        make: Makes the environment of an episode.
        policy: Decides for all slots in one call.
        spaces: The data's spaces, which turn observations into O numbers and A numbers into actions.
        method: Name of what acts, for the results.
        discount: Discount g of the results' discounted return.
        delay_rewards: Tell the policy no reward: its data had none before an episode's end.
        make_recorder: Gives the recorder of an episode, or None for most; None records nothing.
        computed_by: Kind of processor that the policy computes on, for the results.
    """

    def __init__(
        self,
        make: Callable[[EpisodeStart], Environment],
        policy: Policy,
        spaces: Spaces,
        method: str,
        discount: float,
        make_recorder: Callable[[EpisodeStart], EpisodeRecorder | None] | None = None,
        computed_by: str | None = None,
        delay_rewards: bool = False,
    ) -> None:
        self._make, self._policy, self._spaces = make, policy, spaces
        self._method, self._discount = method, discount
        self._make_recorder, self._computed_by, self._delay_rewards = make_recorder, computed_by, delay_rewards
        self._running: dict[int, _Running] = {}
        self.times = RolloutTimes()

    @property
    def num_slots(self) -> int:
        """Episodes that run together, at most."""
        return self._policy.num_slots

    @property
    def running(self) -> int:
        """Episodes that run now."""
        return len(self._running)

    def advance(self, starts: Iterable[EpisodeStart], seconds: float) -> list[EpisodeResult]:
        """Fills free slots with `starts`, then steps until an episode ended or `seconds` passed.

        Args:
            starts: At most as many episodes as slots are free.
            seconds: How long to go on if nothing ends, at least one step.

        Returns:
            The episodes that ended, none if the time was up first.
        """
        ended = [result for start in starts if (result := self._begin(start))]
        deadline = time.perf_counter() + seconds
        while self._running and not ended:
            ended = self.step()
            if time.perf_counter() >= deadline:
                break
        return ended

    def run(
        self, starts: Iterable[EpisodeStart], on_results: Callable[[list[EpisodeResult]], None], seconds: float = 1.0
    ) -> None:
        """Runs `starts` to their ends in this process, every slot busy while episodes wait.

        Args:
            starts: Any number of episodes.
            on_results: Takes episodes as they end.
            seconds: How long to go on, at most, between two calls of `on_results`, which may get none.
        """
        waiting = deque(starts)
        while waiting or self._running:
            free = self.num_slots - self.running
            on_results(self.advance([waiting.popleft() for _ in range(min(free, len(waiting)))], seconds))

    def step(self) -> list[EpisodeResult]:
        """Makes one step of every running episode and returns the results of those that ended with it."""
        before = time.perf_counter()
        decisions = self._policy.act({slot: running.live.columns for slot, running in self._running.items()})
        decided = time.perf_counter()
        ended = []
        for slot in sorted(self._running):
            self._running[slot].decision_ms.append(1000 * (decided - before))
            if result := self._step_slot(slot, decisions[slot]):
                ended.append(result)
        self.times.policy += decided - before
        self.times.environment += time.perf_counter() - decided
        self.times.steps += len(decisions)
        return ended

    def close(self) -> None:
        """Closes the environments of episodes that are still running; their results are not wanted any more."""
        for running in self._running.values():
            close_environment(running.environment)
        self._running.clear()

    def _begin(self, start: EpisodeStart) -> EpisodeResult | None:
        """Starts an episode in a free slot; returns its result only if the environment failed at once."""
        before = time.perf_counter()
        slot = min(set(range(self.num_slots)) - self._running.keys())
        environment = self._make(start)
        recorder = self._make_recorder(start) if self._make_recorder else None
        running = _Running(start, environment, LiveEpisode(environment, self._spaces), recorder)
        self._running[slot] = running
        try:
            running.live.reset(start.seed)
            require_finite("reset(seed) gave the observation", running.live.columns)
        except EnvironmentFaultError as error:  # this one episode's failure
            return self._finish(slot, error)
        finally:
            self.times.environment += time.perf_counter() - before
        self._policy.reset(slot, start.seed)
        return None

    def _step_slot(self, slot: int, decision: Decision) -> EpisodeResult | None:
        running = self._running[slot]
        if not running.rewards:
            running.predicted_return = decision.predicted_return
        try:
            step = running.live.step(decision.action)
            where = f"step {running.live.steps} gave the"
            require_finite(f"{where} observation", running.live.columns)
            require_finite(f"{where} reward", step.reward)
            told = step.info.get("success")
            success = None if told is None else truth(f"{where} success", told)
        except EnvironmentFaultError as error:  # as in _begin
            return self._finish(slot, error)
        running.rewards.append(step.reward)
        running.terminated, running.truncated = step.terminated, step.truncated
        if success is not None:
            running.success = success or bool(running.success)
        if running.recorder:
            running.recorder.record(running.environment, decision, step.reward)
        if running.terminated or running.truncated:
            return self._finish(slot, None)
        self._policy.record(slot, decision.action, 0.0 if self._delay_rewards else step.reward)
        return None

    def _discounted(self, rewards: NDArray[np.float64]) -> float:
        """Returns the discounted sum of the rewards, given as the policy's data has them."""
        if self._delay_rewards:
            return float(rewards.sum() * self._discount ** max(0, len(rewards) - 1))
        return float(np.sum(rewards * self._discount ** np.arange(len(rewards))))

    def _finish(self, slot: int, error: EnvironmentFaultError | None) -> EpisodeResult:
        running = self._running.pop(slot)
        close_environment(running.environment)
        if running.recorder:
            running.recorder.close()
        rewards = np.asarray(running.rewards, dtype=np.float64)
        decision_ms = running.decision_ms or [math.nan]
        return EpisodeResult(
            method=self._method,
            episode=running.start.episode,
            seed=running.start.seed,
            total_reward=float(rewards.sum()),
            length=len(rewards),
            terminated=running.terminated,
            truncated=running.truncated,
            success=running.success,
            predicted_return=running.predicted_return,
            decision_ms_median=float(np.median(decision_ms)),
            decision_ms_p99=float(np.percentile(decision_ms, 99)),
            batch_size=self.num_slots,
            attempts=running.start.attempt,
            host=socket.gethostname(),
            error="" if error is None else str(error),
            discounted_return=self._discounted(rewards),
            computed_by=self._computed_by,
        )


def require_finite(what: str, values: float | NDArray[np.float64]) -> None:
    """Checks that no value is NaN or infinite, as MuJoCo gives after a diverged simulation."""
    if not np.isfinite(values).all():
        raise EnvironmentFaultError(f"{what} {values}; expected finite numbers")
