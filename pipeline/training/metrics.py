"""The record of a run: one JSON object per line, and the same numbers for TensorBoard.

A resumed run first drops the lines after the checkpoint that it resumes from, so that each step is reported exactly
once, however often the run was interrupted.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from pipeline.configuration import write_text_atomically
from pipeline.training.storage import persist

Metrics = dict[str, float | int | str | None]
_LONGEST_LINE = 8192
_NOT_PLOTTED = {"kind", "time", "step", "epoch"}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a metrics file, [] if it does not exist; a line that is still being written is left out."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines]


def last_line(path: Path) -> dict[str, Any] | None:
    """Returns the newest complete line of a metrics file without reading all of it, None if there is none."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LONGEST_LINE))
        lines = file.read().split(b"\n")[:-1]
    return json.loads(lines[-1]) if lines else None


class MetricsLog:
    """Appends to `metrics.jsonl` and writes TensorBoard events.

    The file is the record; where the storage fails for a while, TensorBoard may miss the numbers that were under way.

    Args:
        path: The file; its lines after `resumed_step` are dropped.
        tensorboard: Folder of event files.
        resumed_step: Step of the checkpoint that the run continues from, 0 for a new run.
        pause: Called with the seconds to wait before another attempt to write.

    Raises:
        StorageError: It could not be opened in any attempt.
    """

    def __init__(
        self, path: Path, tensorboard: Path, resumed_step: int, pause: Callable[[float], None] = time.sleep
    ) -> None:
        self._path, self._tensorboard, self._resumed_step, self._pause = path, tensorboard, resumed_step, pause
        persist(self._open, "The record of the run", path, pause)

    def _open(self) -> None:
        kept = [json.dumps(line) + "\n" for line in read_metrics(self._path) if line["step"] <= self._resumed_step]
        write_text_atomically(self._path, "".join(kept))
        # Unbuffered, so that what could not be written is known, and does not come up again when the file is closed.
        self._file = self._path.open("ab", buffering=0)
        self._open_events()

    def _open_events(self) -> None:
        # purge_step hides what an interrupted run wrote beyond the checkpoint.
        self._events = SummaryWriter(str(self._tensorboard), purge_step=self._resumed_step + 1)

    def write(self, kind: str, metrics: Metrics) -> None:
        """Adds one line of kind `step` or `epoch`; it is in the file when this returns.

        Raises:
            StorageError: It could not be written in any attempt.
        """
        what = f"The line of step {metrics['step']}"
        self._append(json.dumps({"kind": kind, "time": time.time(), **metrics}).encode() + b"\n", what)
        self._plot(lambda: self._add_scalars(kind, metrics), what)

    def sync(self) -> None:
        """Makes the lines so far survive a crash of the machine: called before a checkpoint that comes after them.

        Raises:
            StorageError: The storage did not take them in any attempt.
        """
        persist(lambda: os.fsync(self._file.fileno()), "The record of the run", self._path, self._pause)
        self._plot(lambda: self._events.flush(), "The record of the run")

    def close(self) -> None:
        """Closes both.

        Raises:
            StorageError: TensorBoard's numbers could not be written in any attempt.
        """
        self._file.close()
        self._plot(lambda: self._events.flush(), "The end of the record")
        self._events.close()

    def _append(self, line: bytes, what: str) -> None:
        rest = line

        def write() -> None:
            nonlocal rest
            while rest:
                rest = rest[self._file.write(rest) :]

        persist(write, what, self._path, self._pause)

    def _add_scalars(self, kind: str, metrics: Metrics) -> None:
        for name, value in metrics.items():
            if name not in _NOT_PLOTTED and isinstance(value, int | float):
                self._events.add_scalar(f"{kind}/{name}", value, metrics["step"])

    def _plot(self, write: Callable[[], object], what: str) -> None:
        """Calls `write`; a writer of events fails for good, so another attempt is made with another one."""

        def attempt() -> None:
            try:
                write()
            except OSError:
                self._open_events()
                raise

        persist(attempt, what, self._tensorboard, self._pause)
