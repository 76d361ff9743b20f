"""The record of a run: one JSON object per line, and the same numbers for TensorBoard.

A resumed run first drops the lines after the checkpoint that it resumes from, so that each step and each epoch is
reported exactly once, however often the run was interrupted.
"""

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from torch.utils.tensorboard import SummaryWriter

from pipeline.configuration import write_text_atomically
from pipeline.errors import StorageError
from pipeline.stored import json_mapping, read_bytes
from pipeline.training.storage import persist

logger = logging.getLogger(__name__)

Metrics = dict[str, float | int | str | None]
_NOT_PLOTTED = {"kind", "time", "step", "epoch"}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a metrics file, [] if it does not exist; a line that is still being written is left out.

    Raises:
        StorageError: A line is damaged, or the file is not readable.
    """
    lines, damaged = read_undamaged(path)
    if damaged:
        raise StorageError(
            f"{path}, line {damaged[0]} is damaged; expected numbers by name with kind and step. Remove that line, "
            "and run the same command again."
        )
    return lines


def read_undamaged(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """Returns the lines of a metrics file that are whole, and the numbers of the others, from 1 on.

    Raises:
        StorageError: The file is not readable.
    """
    if not path.exists():
        return [], []
    try:
        content = read_bytes(path).split(b"\n")[:-1]
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} is not readable ({error}); expected the record of a training.") from error
    lines: list[dict[str, Any]] = []
    damaged: list[int] = []
    for number, text in enumerate(content, start=1):
        try:
            lines.append(_line(text))
        except ValueError:
            damaged.append(number)
    return lines, damaged


def _line(text: bytes) -> dict[str, Any]:
    line = json_mapping(text)
    if line.get("kind") not in ("step", "epoch") or not isinstance(line.get("step"), int):
        raise ValueError("it has no kind and step")
    if not all(value is None or isinstance(value, int | float) for name, value in line.items() if name != "kind"):
        raise ValueError("not all its values are numbers")
    if line["kind"] == "epoch" and not isinstance(line.get("epoch"), int | float):
        raise ValueError("it has no epoch")
    return line


class MetricsTail:
    """The lines that are new in a metrics file, for whoever looks again and again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""

    def read(self) -> list[dict[str, Any]]:
        """Returns the complete lines since the last look; all of them where another file has taken its place.

        Raises:
            OSError: The file cannot be read, as on a network file system that is away; look again.
        """
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return []
        try:
            content = self._content(found)
        except OSError:
            # A handle that went stale stays so when the file system is back.
            with contextlib.suppress(OSError):
                self.close()
            raise
        *lines, self._rest = content.split(b"\n")
        return [json.loads(line) for line in lines]

    def _content(self, found: os.stat_result) -> bytes:
        """Returns what is new in the file `found`, after the half of a line that is known."""
        # While it is held open its number on the disk is given to no other file.
        if self._file is None or not os.path.samestat(found, os.fstat(self._file.fileno())):
            self.close()
            self._file = self._path.open("rb")
        return self._rest + self._file.read()

    def close(self) -> None:
        """Closes the file; the next look begins at its start."""
        if self._file is not None:
            file, self._file, self._rest = self._file, None, b""
            file.close()


class MetricsLog:
    """Appends to `metrics.jsonl` and writes TensorBoard events.

    What the storage does not take is kept in memory and tried again with the next line, and before a checkpoint, which
    must not come before its lines. The file is the record: what TensorBoard's folder does not take is told, and lost to
    TensorBoard.

    Args:
        path: The file; what it has beyond `resumed_step` and `resumed_epochs` is dropped.
        tensorboard: Folder of event files.
        resumed_step: Step of the checkpoint that the run continues from, 0 for a new run.
        resumed_epochs: Epochs that this checkpoint has reported.
        pause: Called with the seconds to wait before another attempt.

    Raises:
        StorageError: It could not be opened in any attempt.
    """

    def __init__(
        self,
        path: Path,
        tensorboard: Path,
        resumed_step: int,
        resumed_epochs: int,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._path, self._tensorboard, self._pause = path, tensorboard, pause
        self._resumed_step, self._resumed_epochs = resumed_step, resumed_epochs
        self._unwritten = b""
        self._plotted = True
        # The checkpoints' thread syncs while the training's writes.
        self._lock = threading.Lock()
        persist(self._open, "The record of the run", path, pause)

    def _open(self) -> None:
        kept = [json.dumps(line) + "\n" for line in read_metrics(self._path) if self._is_kept(line)]
        write_text_atomically(self._path, "".join(kept))
        # Unbuffered, so that what could not be written is known, and does not come up again when the file is closed.
        self._file = self._path.open("ab", buffering=0)
        # purge_step hides what an interrupted run wrote beyond the checkpoint. A later file that says it again hides
        # the numbers in this one too: so it is said once, and is on the disk before any number.
        self._events = SummaryWriter(str(self._tensorboard), purge_step=self._resumed_step + 1)
        self._events.flush()

    def _is_kept(self, line: dict[str, Any]) -> bool:
        if line["kind"] == "epoch":
            return bool(line["epoch"] <= self._resumed_epochs)
        return bool(line["step"] <= self._resumed_step)

    def write(self, kind: str, metrics: Metrics) -> None:
        """Adds one line of kind `step` or `epoch`; it is in the file when this returns, or later where that fails."""
        line = json.dumps({"kind": kind, "time": time.time(), **metrics}, allow_nan=False)
        with self._lock:
            behind = bool(self._unwritten)
            self._unwritten += line.encode() + b"\n"
            try:
                self._write_lines()
            except OSError as error:
                if not behind:
                    logger.warning("The line of step %s is not yet written (%s).", metrics["step"], error)
            self._plot(lambda: self._add_scalars(kind, metrics))

    def sync(self) -> None:
        """Makes the lines so far survive a crash of the machine: called before a checkpoint that comes after them.

        Raises:
            OSError: The storage did not take them; may be called again.
        """
        with self._lock:
            self._write_lines()
            self._plot(lambda: self._events.flush())
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Writes what is left and closes both.

        Raises:
            StorageError: It could not be written in any attempt.
        """
        try:
            persist(self.sync, "The end of the record", self._path, self._pause)
        finally:
            self._file.close()
            with contextlib.suppress(OSError):  # all is flushed, or that it is not was told
                self._events.close()

    def _write_lines(self) -> None:
        while self._unwritten:
            self._unwritten = self._unwritten[self._file.write(self._unwritten) :]

    def _add_scalars(self, kind: str, metrics: Metrics) -> None:
        for name, value in metrics.items():
            if name not in _NOT_PLOTTED and isinstance(value, int | float):
                self._events.add_scalar(f"{kind}/{name}", value, metrics["step"])

    def _plot(self, write: Callable[[], object]) -> None:
        """Calls `write`; a writer of events fails for good, so a second attempt is made with another one."""
        try:
            write()
        except OSError as error:
            self._plot_anew(write, error)
        else:
            self._plotted = True

    def _plot_anew(self, write: Callable[[], object], failure: OSError) -> None:
        where = f"TensorBoard's file in {self._tensorboard} could not be written ({failure})"
        try:
            self._events = SummaryWriter(str(self._tensorboard))
            write()
        except OSError as error:
            if self._plotted:
                logger.warning("%s, nor another one (%s); %s has all numbers.", where, error, self._path)
            self._plotted = False
        else:
            logger.warning("%s; it goes on in another one, perhaps without the last numbers.", where)
            self._plotted = True
