"""Work on storage beside a training or a job's driver, which is waited for, but not without words, nor for ever.

On a network file system that is mounted `hard`, a call whose server is away neither returns nor fails, and no signal
but SIGKILL reaches the thread that makes it. So the main thread of a driver makes none: it waits, and Ctrl-C ends that.
Opening an HDF5 file is beyond that: its library keeps Python's lock meanwhile, and all threads wait with it.
"""

import logging
import math
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from pipeline.errors import StorageError

logger = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_WORDS_SECONDS = 30.0
"""A wait of this length is told, and told again whenever it has become twice as long."""
LIMIT_SECONDS = 900.0
"""Half of what gloo waits for a message, so that the other workers hear the reason instead of losing the connection."""
PROMPT_SECONDS = 1.0
"""How long a look now and then may take that nothing depends on."""
ENDING_SECONDS = 5.0
"""How long a job that ends, or was told to, waits for what it would leave tidy."""


class Work(Generic[T]):
    """A call in a thread of its own.

    Args:
        action: What is called.
        what: The words for it, for example `Writing the checkpoint of step 5 into runs/a`.
    """

    def __init__(self, action: Callable[[], T], what: str) -> None:
        self.what = what
        self._results: list[T] = []
        self._error: BaseException | None = None
        # Not the thread's own word: Python before 3.13 takes one for ended whose join was interrupted.
        self._ended = threading.Event()
        # A daemon: a process that ends waits for all other threads, and this one may never return. The action is the
        # thread's alone, which drops it at its end: the snapshot in it takes as much memory as model and optimizer.
        threading.Thread(target=self._run, args=(action,), name="storage", daemon=True).start()
        with _STARTING:
            _STARTED.add(self)

    def _run(self, action: Callable[[], T]) -> None:
        try:
            self._results.append(action())
        except BaseException as error:  # raised where the result is wanted
            self._error = error
        finally:
            self._ended.set()

    def ended(self, seconds: float) -> bool:
        """Returns whether it has ended, which is waited for `seconds` at most."""
        return self._ended.wait(seconds)

    def result(self) -> T:
        """Returns what the call gave, or raises what it raised; only when it has ended."""
        if self._error is not None:
            raise self._error
        return self._results[0]


_STARTED: "weakref.WeakSet[Work[Any]]" = weakref.WeakSet()
_STARTING = threading.Lock()
"""Work is begun by several threads, and a set cannot be looked through meanwhile."""


def under_way() -> set[Work[Any]]:
    """Returns the work of this process that has not ended."""
    with _STARTING:
        started = list(_STARTED)
    return {work for work in started if not work.ended(0)}


class Beside:
    """Waits for work on one storage, with words now and then.

    After one wait that was given up, the next ones are short: a run that ends must not wait for each of its files.

    Args:
        patient: Never give up: for work that may take long of itself.
    """

    def __init__(self, patient: bool = False) -> None:
        self._patient, self._given_up = patient, False

    def wait(self, work: Work[Any]) -> None:
        """Returns when `work` has ended, however it did.

        Raises:
            StorageError: It has neither ended nor failed within LIMIT_SECONDS.
        """
        limit = math.inf if self._patient else FIRST_WORDS_SECONDS if self._given_up else LIMIT_SECONDS
        waited, until = 0.0, FIRST_WORDS_SECONDS
        while not work.ended(until - waited):
            if until >= limit:
                self._given_up = True
                raise StorageError(
                    f"{work.what} has neither ended nor failed after {until:g} s; expected storage that answers. "
                    "Its server may be away: restore it, then run the same command again: it resumes."
                )
            logger.warning("%s is still under way after %g s; its storage may be away.", work.what, until)
            waited, until = until, min(2 * until, limit)

    def do(self, action: Callable[[], T], what: str) -> T:
        """Returns what `action` gives, or raises what it raises.

        Args:
            action: What is called, in a thread of its own.
            what: The words for it.

        Raises:
            StorageError: It has neither ended nor failed within LIMIT_SECONDS.
        """
        work = Work(action, what)
        self.wait(work)
        return work.result()


class Repeated(Generic[T]):
    """A call that is made again and again, one at a time, by whoever must not be held up by it.

    Args:
        action: What is called, in a thread of its own.
        what: The words for it.
        patience: Seconds that a call may take; PROMPT_SECONDS if not given.
    """

    def __init__(self, action: Callable[[], T], what: str, patience: float | None = None) -> None:
        self._action, self._what, self._patience = action, what, patience
        self._work: Work[T] | None = None

    def __call__(self, late: T) -> T:
        """Returns what the call gives, or raises what it raises.

        Args:
            late: Returned where it takes longer than that. It goes on then, and the next time waits for it.
        """
        work = self._work = self._work or Work(self._action, self._what)
        if not work.ended(PROMPT_SECONDS if self._patience is None else self._patience):
            return late
        self._work = None
        return work.result()

    def last(self, storage: Beside) -> list[T]:
        """Returns what the call gives that is still under way, if one is, and what one more gives.

        Raises:
            StorageError: One has neither ended nor failed in time.
        """
        results, work = [], self._work
        if work is not None:
            storage.wait(work)
            self._work = None
            results.append(work.result())
        return [*results, storage.do(self._action, self._what)]


def at_the_end(action: Callable[[], object], what: str) -> None:
    """Does what a job that ends still has to do on its storage; what takes long is left undone, which is told.

    Args:
        action: What is called, in a thread of its own. Raises what it raises.
        what: The words for it.
    """
    work = Work(action, what)
    if work.ended(ENDING_SECONDS):
        work.result()
    else:
        logger.warning("%s is left undone after %g s; its storage may be away.", what, ENDING_SECONDS)
