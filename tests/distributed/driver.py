"""A training's driver with a stand-in for Ray Train that works in this process, and what it says that it waits for."""

import re
import threading
from collections.abc import Callable
from typing import Any

from pipeline.distributed.train_worker import train_worker

WAIT_S = 60.0


class Trainer:
    """In place of TorchTrainer: what it was made with, and what `fit` does."""

    made: dict[str, Any]
    works: Callable[[dict[str, Any]], None] = staticmethod(train_worker)

    def __init__(self, _function: Any, **settings: Any) -> None:
        type(self).made = settings

    def fit(self) -> None:
        type(self).works(self.made["train_loop_config"])


class Waits(list[str]):
    """What is waited for, as it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self._shown = threading.Condition()

    def show(self, what: str) -> None:
        with self._shown:
            self.append(what)
            self._shown.notify_all()

    def until(self, pattern: str) -> None:
        """Waits until something of that pattern is shown."""
        with self._shown:
            assert self._shown.wait_for(lambda: any(re.search(pattern, what) for what in self), WAIT_S), self
