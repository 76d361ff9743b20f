"""A pool of Ray actors that run episodes, a batch of them at a time in each.

An actor goes on with its batch from call to call, each of which answers after about a second, so that episodes are kept
as they end and a hanging environment shows.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import torch

from pipeline.distributed.actor_pool import ActorPool, Limit, Terms
from pipeline.distributed.room import actors_to_start
from pipeline.distributed.shared_storage import require_shared
from pipeline.errors import EvaluationError
from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.recipe import Recipe, build_batch, is_trace_due, write_plan_trace
from pipeline.evaluation.rollout import EpisodeBatch, EpisodeStart, RolloutTimes
from pipeline.records import EpisodeResult

CALL_SECONDS = 1.0
"""How long an actor goes on before it answers, unless an episode ends; one call costs Ray about 1 ms."""


@dataclass(frozen=True)
class Advance:
    """What an actor did in one call."""

    results: list[EpisodeResult]
    times: RolloutTimes


class RolloutActor:
    """Runs one batch of episodes in lock step, in a process of its own.

    Args:
        threads: Torch threads, the CPUs that Ray reserved: more would take the other actors' cores.
    """

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._recipe: Recipe | None = None
        self._batch: EpisodeBatch | None = None

    def ready(self) -> bool:
        """Answers once the process has started, if its node sees the runs."""
        require_shared()
        return True

    def advance(self, recipe: Recipe, starts: list[EpisodeStart], seconds: float) -> Advance:
        """Starts `starts` and runs the batch until an episode ended or `seconds` passed; see EpisodeBatch.advance.

        Another recipe than in the call before takes the place of the old one and drops its running episodes.
        """
        if self._batch is None or recipe != self._recipe:
            if self._batch is not None:
                self._batch.close()
            self._recipe, self._batch = recipe, build_batch(recipe)
        for start in starts:
            # Not again after a lost actor: what a plan alone ended must not end the episode on each of its attempts.
            if start.episode == 0 and start.attempt == 1 and is_trace_due(recipe):
                write_plan_trace(recipe, start)
        self._batch.times = RolloutTimes()
        return Advance(self._batch.advance(starts, seconds), self._batch.times)


@dataclass
class PoolFacts:
    """What the pool knows of a run, for progress lines and benchmarks; grows while the run goes on."""

    actors: int = 0
    lost_actors: int = 0
    times: RolloutTimes = field(default_factory=RolloutTimes)

    def add(self, times: RolloutTimes) -> None:
        """Adds the times of one call."""
        self.times.policy += times.policy
        self.times.environment += times.environment
        self.times.steps += times.steps


class RolloutPool:
    """The actors of one evaluation; a context manager that ends them.

    Args:
        config: Resources of an actor, attempts and limits.
        num_actors: How many actors to keep alive; those that find no room are waited for while others work.
    """

    def __init__(self, config: EvaluationConfig, num_actors: int) -> None:
        self._num_actors, self._max_attempts = num_actors, config.max_attempts
        self._pool = ActorPool(RolloutActor, (config.cpus_per_actor,), rollout_terms(config))

    def __enter__(self) -> "RolloutPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.close()

    def run(
        self,
        recipe: Recipe,
        starts: Iterable[EpisodeStart],
        on_results: Callable[[list[EpisodeResult]], None],
        on_facts: Callable[[PoolFacts], None],
    ) -> PoolFacts:
        """Runs episodes until each has ended once.

        Args:
            recipe: What acts, and where.
            starts: The episodes.
            on_results: Takes episodes as they end, each exactly once.
            on_facts: Called about twice a second and after every call.

        Raises:
            EvaluationError: An episode lost its actor on each of its attempts; the others are run first.
            ClusterError: No actor could be started.
        """
        work = _Rollouts(recipe, starts, self._num_actors, on_results, on_facts)
        self._pool.run(work)
        if work.lost:
            raise EvaluationError(
                f"episodes {sorted(work.lost)} lost their actor on each of {self._max_attempts} attempts; expected "
                "them to end within evaluation.max_attempts. All other episodes are kept. The last attempt had an "
                "actor of its own, so look for an environment that ends its process or needs too much memory, then "
                f"run again. The last one: {next(reversed(work.lost.values()))}"
            )
        return work.facts


class _Rollouts:
    """The episodes of one row, as work of a pool."""

    def __init__(
        self,
        recipe: Recipe,
        starts: Iterable[EpisodeStart],
        num_actors: int,
        on_results: Callable[[list[EpisodeResult]], None],
        on_facts: Callable[[PoolFacts], None],
    ) -> None:
        self._recipe, self._num_actors = recipe, num_actors
        self._on_results, self._on_facts = on_results, on_facts
        self._starts = {start.episode: start for start in starts}
        self._waiting = deque(self._starts)
        self._open = set(self._starts)
        self.lost: dict[int, str] = {}
        self.facts = PoolFacts()

    @property
    def slots(self) -> int:
        return self._recipe.num_slots

    def num_actors(self) -> int:
        return self._num_actors

    def next_piece(self) -> int | None:
        return self._waiting.popleft() if self._waiting else None

    def call(self, actor: Any, pieces: Mapping[int, int]) -> Any:
        starts = [replace(self._starts[episode], attempt=attempt) for episode, attempt in pieces.items()]
        return actor.advance.remote(self._recipe, starts, CALL_SECONDS)

    def take(self, answer: Advance) -> set[int]:
        self.facts.add(answer.times)
        if answer.results:
            self._on_results(answer.results)
        ended = {result.episode for result in answer.results}
        self._open -= ended
        return ended

    def give_up(self, piece: int, reason: str) -> None:
        self.lost[piece] = reason
        self._open.remove(piece)

    def is_done(self) -> bool:
        return not self._open

    def show(self, actors: int, lost_actors: int) -> None:
        self.facts.actors, self.facts.lost_actors = actors, lost_actors
        self._on_facts(self.facts)


def rollout_terms(config: EvaluationConfig) -> Terms:
    """Returns what an actor or a trial gets, and its limits."""
    return Terms(
        cpus=config.cpus_per_actor,
        gpus=config.gpus_per_actor,
        max_attempts=config.max_attempts,
        start=Limit("evaluation.start_timeout_s", config.start_timeout_s),
        call=Limit("evaluation.call_timeout_s", config.call_timeout_s),
        advice="Lower evaluation.cpus_per_actor or evaluation.gpus_per_actor, or wait for the cluster's other work.",
    )


def wanted_actors(config: EvaluationConfig, useful: int, can_grow: bool) -> int:
    """Returns how many actors or trials to start, at least one; see `actors_to_start`.

    Raises:
        ClusterError: Not even one finds room, and there will be none to wait for.
    """
    wanted = actors_to_start(config.num_actors, useful, can_grow, config.cpus_per_actor, config.gpus_per_actor)
    if not wanted:
        raise rollout_terms(config).no_room("no actor can start here")
    return wanted
