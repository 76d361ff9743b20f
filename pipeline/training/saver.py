"""Writes checkpoints beside the training, tries again when storage refuses, and keeps the best and the last.

The loop hands over a snapshot in host memory and goes on; one thread writes. A snapshot that comes while the one
before is still being written waits for it: at most one is in flight, and none is dropped.
"""

import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.training.checkpoint import CheckpointInfo, list_checkpoints, read_info, write_checkpoint
from pipeline.training.storage import persist


@dataclass(frozen=True)
class Snapshot:
    """Everything of one checkpoint, in host memory and shared with nobody."""

    info: CheckpointInfo
    model: dict[str, Tensor]
    training: dict[str, Any]


class CheckpointSaver:
    """The run's folder of checkpoints, as the worker that writes into it sees it.

    Args:
        parent: Folder of the run's checkpoints.
        config: The effective experiment, stored in each.
        manifest: JSON of the shards' manifest, stored in each.
        keep_best: Checkpoints kept by validation loss, beside the last.
        pause: Called with the seconds to wait before another attempt.
    """

    def __init__(
        self,
        parent: Path,
        config: dict[str, Any],
        manifest: str,
        keep_best: int,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._parent, self._config, self._manifest, self._keep_best = parent, config, manifest, keep_best
        self._pause = pause
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        for leftover in (*parent.glob(".partial-*"), *parent.glob(".deleted-*")):
            # An earlier process was killed while it wrote or deleted this one.
            shutil.rmtree(leftover)

    def save(self, snapshot: Snapshot) -> None:
        """Starts writing `snapshot`; waits for the one before, if that is still being written.

        Raises:
            StorageError: The one before could not be written in any attempt.
        """
        self.wait()
        self._pending = self._thread.submit(self._write, snapshot)

    def wait(self) -> None:
        """Waits until nothing is being written; each attempt ends by itself.

        Raises:
            StorageError: The last snapshot could not be written in any attempt.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def close(self) -> None:
        """Waits like `wait`, and ends the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def _write(self, snapshot: Snapshot) -> None:
        info, folder = snapshot.info, self._parent

        def write() -> None:
            write_checkpoint(folder, info, snapshot.model, self._config, self._manifest, snapshot.training)

        persist(write, f"The checkpoint of step {info.step}", folder, self._pause)
        self._remove_superseded()

    def _remove_superseded(self) -> None:
        folders = list_checkpoints(self._parent)
        for folder in superseded({folder: read_info(folder).validation_loss for folder in folders}, self._keep_best):
            # Renamed first: a deletion that is interrupted leaves nothing that looks like a checkpoint.
            doomed = folder.rename(folder.with_name(f".deleted-{folder.name}"))
            shutil.rmtree(doomed)


def superseded(losses: dict[Path, float | None], keep_best: int) -> list[Path]:
    """Returns the checkpoints that may go: neither the newest nor among the `keep_best` by validation loss.

    Args:
        losses: Validation loss of each checkpoint, None where it was not measured; oldest first.
        keep_best: How many of the measured ones stay.
    """
    folders = list(losses)
    ranked = sorted((loss, folder) for folder, loss in losses.items() if loss is not None)
    kept = {folder for _, folder in ranked[:keep_best]} | set(folders[-1:])
    return [folder for folder in folders if folder not in kept]
