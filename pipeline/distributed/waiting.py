"""Waiting for Ray Data with a limit: of itself it waits for free CPUs for ever."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from pipeline.errors import ClusterError

T = TypeVar("T")


def within(items: Iterable[T], seconds: float, given_up: Callable[[], ClusterError]) -> Iterator[T]:
    """Yields `items`, waiting at most `seconds` for each.

    Each one is taken by a thread of its own, which a limit can leave behind: Ray's wait cannot be ended.

    Args:
        items: What Ray Data gives.
        seconds: The limit.
        given_up: Makes the error when it is over.

    Raises:
        ClusterError: An item did not come in time.
    """
    iterator = iter(items)
    while (taken := _next(iterator, seconds, given_up)) is not None:
        yield taken[0]


def _next(items: Iterator[T], seconds: float, given_up: Callable[[], ClusterError]) -> tuple[T] | None:
    taken: queue.SimpleQueue[tuple[T] | BaseException | None] = queue.SimpleQueue()

    def take() -> None:
        try:
            taken.put((next(items),))
        except StopIteration:
            taken.put(None)
        except BaseException as error:  # raised where the item is wanted
            taken.put(error)

    threading.Thread(target=take, name="next of Ray Data", daemon=True).start()
    try:
        item = taken.get(timeout=seconds)
    except queue.Empty:
        raise given_up() from None
    if isinstance(item, BaseException):
        raise item
    return item
