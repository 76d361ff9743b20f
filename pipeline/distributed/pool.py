"""A pool of Ray actors that run episodes, and the driver's loop around it.

Ray's own ActorPool hangs when a node is lost and repeats a fatal episode for ever. Here an episode is only ever given
to an actor that has answered, a lost actor's running episodes go back into the queue, each episode has a bounded number
of starts, and every wait has a limit. An episode's last start is made alone, so that one that kills its process cannot
use up its neighbours' attempts.
"""

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import ray
import torch

from pipeline.distributed.room import actors_to_start
from pipeline.errors import EvaluationError
from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.methods import MethodRecipe, build_batch
from pipeline.evaluation.rollout import EpisodeBatch, EpisodeStart, RolloutTimes
from pipeline.records import EpisodeResult

CALL_SECONDS = 1.0
"""How long an actor goes on before it answers, unless an episode ends; one call costs Ray about 1 ms."""

POLL_SECONDS = 0.5


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
        self._recipe: MethodRecipe | None = None
        self._batch: EpisodeBatch | None = None

    def ready(self) -> bool:
        """Answers once the process has started."""
        return True

    def advance(self, recipe: MethodRecipe, starts: list[EpisodeStart], seconds: float) -> Advance:
        """Starts `starts` and runs the batch until an episode ended or `seconds` passed; see EpisodeBatch.advance.

        Another recipe than in the call before takes the place of the old one and drops its running episodes.
        """
        if self._batch is None or recipe != self._recipe:
            if self._batch is not None:
                self._batch.close()
            self._recipe, self._batch = recipe, build_batch(recipe)
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


@dataclass
class _Member:
    """An actor, the call that it is busy with, and the episodes that it runs."""

    actor: Any
    call: Any
    called_at: float
    answered: bool = False
    running: dict[int, EpisodeStart] = field(default_factory=dict)
    alone: bool = False


class RolloutPool:
    """The actors of one evaluation; a context manager that ends them.

    Args:
        config: Resources of an actor, attempts and limits.
        num_actors: How many actors to keep alive; those that find no room are waited for while others work.
    """

    def __init__(self, config: EvaluationConfig, num_actors: int) -> None:
        self._config = config
        self._num_actors = num_actors
        self._members: list[_Member] = []
        self._queue: deque[EpisodeStart] = deque()
        self._suspects: deque[EpisodeStart] = deque()
        self._failed: list[EpisodeStart] = []
        self._failed_actor_starts = 0
        self._answered_at = time.monotonic()
        self._remote = ray.remote(RolloutActor).options(
            num_cpus=config.cpus_per_actor,
            num_gpus=config.gpus_per_actor,
            max_restarts=0,
            scheduling_strategy="SPREAD",
        )

    def __enter__(self) -> "RolloutPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in self._members:
            ray.kill(member.actor)
        self._members.clear()

    def run(
        self,
        recipe: MethodRecipe,
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
            EvaluationError: An episode lost its actor on each of its attempts (the others are run first), or no actor
                could be started.
        """
        facts = PoolFacts()
        self._queue.extend(starts)
        self._answered_at = time.monotonic()
        while self._queue or self._suspects or any(member.running for member in self._members):
            self._start_actors()
            for member in self._members:
                if member.call is None:
                    self._give_work(member, recipe)
            calls = [member.call for member in self._members if member.call is not None]
            done, _ = ray.wait(calls, num_returns=1, timeout=POLL_SECONDS)
            for member in [member for member in self._members if member.call in done]:
                self._take_answer(member, facts, on_results)
            self._check_limits(facts)
            facts.actors = sum(member.answered for member in self._members)
            on_facts(facts)
        self._report_failed()
        return facts

    def _start_actors(self) -> None:
        while len(self._members) < self._num_actors:
            actor = self._remote.remote(self._config.cpus_per_actor)
            self._members.append(_Member(actor, actor.ready.remote(), time.monotonic()))

    def _give_work(self, member: _Member, recipe: MethodRecipe) -> None:
        """Calls an idle actor with as many waiting episodes as its free slots take; leaves it idle if it has none."""
        taken: list[EpisodeStart] = []
        if not member.alone:
            while self._queue and len(member.running) + len(taken) < recipe.num_slots:
                taken.append(self._queue.popleft())
        if self._suspects and not (taken or member.running):
            taken, member.alone = [self._suspects.popleft()], True
        member.running.update({start.episode: start for start in taken})
        if member.running:
            member.call = member.actor.advance.remote(recipe, taken, CALL_SECONDS)
            member.called_at = time.monotonic()

    def _take_answer(
        self, member: _Member, facts: PoolFacts, on_results: Callable[[list[EpisodeResult]], None]
    ) -> None:
        try:
            answer = ray.get(member.call)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError as error:  # the actor, its node, or the answer on its way was lost
            self._lose(member, facts, str(error))
            return
        member.call, member.answered = None, True
        self._answered_at, self._failed_actor_starts = time.monotonic(), 0
        if isinstance(answer, Advance):
            facts.add(answer.times)
            for result in answer.results:
                del member.running[result.episode]
            member.alone = member.alone and bool(member.running)
            if answer.results:
                on_results(answer.results)

    def _lose(self, member: _Member, facts: PoolFacts, reason: str) -> None:
        """Gives up an actor and puts its running episodes back into the queue."""
        ray.kill(member.actor)
        self._members.remove(member)
        facts.lost_actors += 1
        for start in member.running.values():
            if start.attempt >= self._config.max_attempts:
                self._failed.append(start)
                continue
            again = dataclasses.replace(start, attempt=start.attempt + 1)
            (self._suspects if again.attempt == self._config.max_attempts else self._queue).appendleft(again)
        if not member.answered:
            self._failed_actor_starts += 1
            if self._failed_actor_starts >= self._config.max_attempts:
                raise EvaluationError(
                    f"{self._failed_actor_starts} actors in a row ended before they answered; expected them to start. "
                    f"The last one: {reason}"
                )

    def _check_limits(self, facts: PoolFacts) -> None:
        """Gives up actors that do not answer, and the run if none ever does."""
        now = time.monotonic()
        for member in [member for member in self._members if member.answered and member.call is not None]:
            if now - member.called_at > self._config.call_timeout_s:
                self._lose(member, facts, f"no answer for evaluation.call_timeout_s {self._config.call_timeout_s}")
        nobody = not any(member.answered for member in self._members)
        if nobody and now - self._answered_at > self._config.start_timeout_s:
            raise none_started(self._config)

    def _report_failed(self) -> None:
        if self._failed:
            failed = sorted(start.episode for start in self._failed)
            self._failed.clear()
            raise EvaluationError(
                f"episodes {failed} lost their actor on each of {self._config.max_attempts} attempts; expected them to "
                "end within evaluation.max_attempts. All other episodes are kept. The last attempt had an actor of its "
                "own, so look for an environment that ends its process or needs too much memory, then run again."
            )


def no_room(config: EvaluationConfig, seen: str) -> EvaluationError:
    """Returns the error of actors that find no room.

    Args:
        config: Resources of an actor.
        seen: What shows it, as the sentence's beginning.
    """
    return EvaluationError(
        f"{seen}; expected room for {config.cpus_per_actor} CPUs and {config.gpus_per_actor:g} GPUs. The cluster has "
        f"{ray.cluster_resources()}, free are {ray.available_resources()}. Lower evaluation.cpus_per_actor or "
        "evaluation.gpus_per_actor, or wait for the cluster's other work."
    )


def none_started(config: EvaluationConfig) -> EvaluationError:
    """Returns the error of actors that were waited for and did not start."""
    return no_room(config, f"no actor has started within evaluation.start_timeout_s {config.start_timeout_s:g}")


def wanted_actors(config: EvaluationConfig, useful: int, can_grow: bool) -> int:
    """Returns how many actors or trials to start, at least one; see `actors_to_start`.

    Raises:
        EvaluationError: Not even one finds room, and there will be none to wait for.
    """
    wanted = actors_to_start(config.num_actors, useful, can_grow, config.cpus_per_actor, config.gpus_per_actor)
    if not wanted:
        raise no_room(config, "no actor can start here")
    return wanted
