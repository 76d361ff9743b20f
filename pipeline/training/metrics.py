"""The record of a run: one JSON object per line, and the same numbers for TensorBoard.

A resumed run first drops the lines after the checkpoint that it resumes from, so that each step is reported exactly
once, however often the run was interrupted.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from pipeline.configuration import write_text_atomically

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

    Args:
        path: The file; its lines after `resumed_step` are dropped.
        tensorboard: Folder of event files.
        resumed_step: Step of the checkpoint that the run continues from, 0 for a new run.
    """

    def __init__(self, path: Path, tensorboard: Path, resumed_step: int) -> None:
        kept = [json.dumps(line) + "\n" for line in read_metrics(path) if line["step"] <= resumed_step]
        write_text_atomically(path, "".join(kept))
        self._file = path.open("a")
        # purge_step hides what an interrupted run wrote beyond the checkpoint.
        self._events = SummaryWriter(str(tensorboard), purge_step=resumed_step + 1)

    def write(self, kind: str, metrics: Metrics) -> None:
        """Adds one line of kind `step` or `epoch`; it is in the file when this returns."""
        self._file.write(json.dumps({"kind": kind, "time": time.time(), **metrics}) + "\n")
        self._file.flush()
        step = metrics["step"]
        for name, value in metrics.items():
            if name not in _NOT_PLOTTED and isinstance(value, int | float):
                self._events.add_scalar(f"{kind}/{name}", value, step)

    def sync(self) -> None:
        """Makes the lines so far survive a crash of the machine: called before a checkpoint that comes after them."""
        os.fsync(self._file.fileno())
        self._events.flush()

    def close(self) -> None:
        """Closes both."""
        self._file.close()
        self._events.close()
