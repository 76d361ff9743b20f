"""Ray actors that share numbered pieces of work, and the driver's loop around them.

Ray's own ActorPool hangs when a node is lost and repeats a fatal piece for ever. Here a piece is only ever given to an
actor that has answered (one that finds no room would keep it), a lost actor's pieces are given to others, each has a
bounded number of attempts, and every wait has a limit. A piece's last attempt is made alone, so that one that kills its
process cannot use up its neighbours' attempts.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

import ray

from pipeline.distributed.room import no_room
from pipeline.errors import ClusterError

POLL_SECONDS = 0.5


class Work(Protocol):
    """Pieces of work, each with a number, and what actors do with them."""

    @property
    def slots(self) -> int:
        """Pieces that one actor works on together, at most."""

    def num_actors(self) -> int:
        """Returns how many actors are wanted now, at least 1; those that are there stay if it becomes less."""

    def next_piece(self) -> int | None:
        """Returns a piece that nobody was given yet, None while there is none."""

    def call(self, actor: Any, pieces: Mapping[int, int]) -> Any:
        """Calls an actor to begin `pieces`, each with the number of this attempt, and to go on with those it has.

        Returns:
            The reference of the call's answer.
        """

    def take(self, answer: Any) -> Container[int]:
        """Takes a call's answer, and returns the pieces that ended with it."""

    def give_up(self, piece: int, reason: str) -> None:
        """Takes note that a piece lost its actor on each of its attempts; may raise, which ends the run."""

    def is_done(self) -> bool:
        """Returns whether nothing is left to wait for."""

    def show(self, actors: int, lost_actors: int) -> None:
        """Called about twice a second and after every answer.

        Args:
            actors: That have answered.
            lost_actors: Since the run began.
        """


@dataclass(frozen=True)
class Limit:
    """Seconds, and the setting that they are configured by."""

    setting: str
    seconds: float

    def __str__(self) -> str:
        """For error messages."""
        return f"{self.setting}, {self.seconds:g} s"


@dataclass(frozen=True)
class Terms:
    """What an actor gets, and what is asked of it.

    Attributes:
        cpus, gpus: Of one actor.
        max_attempts: Attempts at a piece, and actors in a row that may end before they answer.
        start: How long the first actor may take to answer.
        call: How long a call may take, after which the actor counts as lost.
        advice: What to do where no actor finds room, a sentence.
    """

    cpus: int
    gpus: float
    max_attempts: int
    start: Limit
    call: Limit
    advice: str

    def no_room(self, seen: str) -> ClusterError:
        """Returns the error of actors that find no room; `seen` shows it, and begins the sentence."""
        return no_room(seen, self.cpus, self.gpus, self.advice)

    def none_started(self) -> ClusterError:
        """Returns the error of actors that were waited for and did not start."""
        return self.no_room(f"no actor has started within {self.start}")


@dataclass
class _Member:
    """An actor, the call that it is busy with, and the pieces that it works on."""

    actor: Any
    call: Any
    called_at: float
    answered: bool = False
    pieces: list[int] = field(default_factory=list)
    alone: bool = False


class ActorPool:
    """Actors that are kept from one run to the next; a context manager that ends them.

    Args:
        actor_class: Has a method `ready`, which answers once the process has started, beside those that `Work.call`
            calls.
        arguments: Of its constructor.
        terms: Resources and limits.
    """

    def __init__(self, actor_class: type, arguments: tuple[Any, ...], terms: Terms) -> None:
        self._terms, self._arguments = terms, arguments
        self._remote = ray.remote(actor_class).options(
            num_cpus=terms.cpus, num_gpus=terms.gpus, max_restarts=0, scheduling_strategy="SPREAD"
        )
        self._members: list[_Member] = []

    def __enter__(self) -> "ActorPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the actors."""
        for member in self._members:
            ray.kill(member.actor)
        self._members.clear()

    def run(self, work: Work) -> None:
        """Has the actors do `work` until it is done.

        Raises:
            ClusterError: No actor starts.
            Exception: What `work` raised, or its method in an actor, as it was raised there.
        """
        run = _Run(work, self._terms, self._members, self._start_actor)
        try:
            while not work.is_done():
                run.go_on()
        finally:
            # Whatever ended it: an actor in the midst of this work would bring its results into the next run.
            if any(member.pieces for member in self._members):
                self.close()

    def _start_actor(self) -> _Member:
        actor = self._remote.remote(*self._arguments)
        return _Member(actor, actor.ready.remote(), time.monotonic())


class _Run:
    """One run: what was lost of its work, how often, and when an actor was last seen."""

    def __init__(self, work: Work, terms: Terms, members: list[_Member], start_actor: Callable[[], _Member]) -> None:
        self._work, self._terms, self._members, self._start_actor = work, terms, members, start_actor
        self._losses: Counter[int] = Counter()
        self._again: deque[int] = deque()
        self._suspects: deque[int] = deque()
        self._lost_actors = self._failed_starts = 0
        self._seen_at = time.monotonic()

    def go_on(self) -> None:
        """Gives work to those that have none, and takes the answers that come within half a second."""
        while len(self._members) < self._work.num_actors():
            self._members.append(self._start_actor())
        for member in self._members:
            if member.call is None:
                self._give_work(member)
        calls = [member.call for member in self._members if member.call is not None]
        ray.wait(calls, num_returns=1, timeout=POLL_SECONDS)
        # All that is there: a driver that was stopped for a while must not take those that waited for it for lost.
        answered, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
        for member in [member for member in self._members if member.call in answered]:
            self._take_answer(member)
        self._check_limits()
        self._work.show(sum(member.answered for member in self._members), self._lost_actors)

    def _give_work(self, member: _Member) -> None:
        """Calls an idle actor with as many pieces as it has room for; leaves it idle if there is nothing to do."""
        member.alone = member.alone and bool(member.pieces)
        taken: list[int] = []
        slots = 1 if self._terms.max_attempts == 1 else self._work.slots
        if not member.alone:
            while len(member.pieces) + len(taken) < slots and (piece := self._next_piece()) is not None:
                taken.append(piece)
        if self._suspects and not (taken or member.pieces):
            taken, member.alone = [self._suspects.popleft()], True
        member.pieces += taken
        if member.pieces:
            attempts = {piece: self._losses[piece] + 1 for piece in taken}
            member.call, member.called_at = self._work.call(member.actor, attempts), time.monotonic()

    def _next_piece(self) -> int | None:
        return self._again.popleft() if self._again else self._work.next_piece()

    def _take_answer(self, member: _Member) -> None:
        try:
            answer = ray.get(member.call)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError as error:  # the actor, its node, or the answer on its way was lost
            self._lose(member, str(error))
            return
        member.call, self._failed_starts = None, 0
        if not member.answered:
            member.answered = True
            return
        ended = self._work.take(answer)
        member.pieces = [piece for piece in member.pieces if piece not in ended]

    def _lose(self, member: _Member, reason: str) -> None:
        """Gives up an actor; its pieces are for others to do."""
        ray.kill(member.actor)
        self._members.remove(member)
        self._lost_actors += 1
        for piece in member.pieces:
            self._losses[piece] += 1
            left = self._terms.max_attempts - self._losses[piece]
            if left == 0:
                self._work.give_up(piece, reason.strip().partition("\n")[0])
            else:
                (self._suspects if left == 1 else self._again).append(piece)
        if not member.answered:
            self._failed_starts += 1
            if self._failed_starts >= self._terms.max_attempts:
                raise ClusterError(
                    f"{self._failed_starts} actors in a row ended before they answered; expected them to start. The "
                    f"last one: {reason}"
                )

    def _check_limits(self) -> None:
        """Gives up actors that do not answer, and the run if none ever does."""
        now = time.monotonic()
        answered = [member for member in self._members if member.answered]
        if answered:
            self._seen_at = now
        elif now - self._seen_at > self._terms.start.seconds:
            raise self._terms.none_started()
        for member in answered:
            if member.call is not None and now - member.called_at > self._terms.call.seconds:
                self._lose(member, f"no answer within {self._terms.call}")
