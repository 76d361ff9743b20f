"""Work on storage beside the training, which is waited for, but not for ever.

On a network file system that is mounted `hard`, a call whose server is away neither returns nor fails.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from pipeline.errors import StorageError

logger = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_WORDS_SECONDS = 30.0
"""A wait of this length is told, and told again whenever it has become twice as long."""
LIMIT_SECONDS = 900.0
"""Half of what gloo waits for a message, so that the other workers hear the reason instead of losing the connection."""


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
        # A daemon: a process that ends waits for all other threads, and this one may never return. The action is the
        # thread's alone, which drops it at its end: the snapshot in it takes as much memory as model and optimizer.
        self._thread = threading.Thread(target=self._run, args=(action,), name="storage", daemon=True)
        self._thread.start()

    def _run(self, action: Callable[[], T]) -> None:
        try:
            self._results.append(action())
        except BaseException as error:  # raised where the result is wanted
            self._error = error

    def ended(self, seconds: float) -> bool:
        """Returns whether it has ended, which is waited for `seconds` at most."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def result(self) -> T:
        """Returns what the call gave, or raises what it raised; only when it has ended."""
        if self._error is not None:
            raise self._error
        return self._results[0]


class Beside:
    """Waits for work on one storage, with words now and then.

    After one wait that was given up, the next ones are short: a run that ends must not wait for each of its files.
    """

    def __init__(self) -> None:
        self._given_up = False

    def wait(self, work: Work[Any]) -> None:
        """Returns when `work` has ended, however it did.

        Raises:
            StorageError: It has neither ended nor failed within LIMIT_SECONDS.
        """
        limit = FIRST_WORDS_SECONDS if self._given_up else LIMIT_SECONDS
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
