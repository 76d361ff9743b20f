"""Writes checkpoints beside the training, tries again when storage refuses, and keeps the best and the last.

The loop hands over a snapshot in host memory and goes on; a thread writes. A snapshot that comes while the one before
is still being written waits for it: at most one is in flight. One that could not be written in any attempt is told, and
the training goes on to the next; only the last one must not be lost. Storage that does not even refuse ends the run.
"""

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.beside import Beside, Work
from pipeline.errors import CheckpointError, StorageError
from pipeline.training.checkpoint import (
    CheckpointInfo,
    costs,
    folder_name,
    list_checkpoints,
    ranked,
    write_checkpoint,
)
from pipeline.training.fence import Fence
from pipeline.training.folders import discard, recover, remove_discarded
from pipeline.training.storage import persist

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """Everything of one checkpoint, in host memory and shared with nobody."""

    info: CheckpointInfo
    model: dict[str, Tensor]
    training: dict[str, Any]


class CheckpointSaver:
    """The run's folder of checkpoints, as the worker that writes into it sees it.

    From here on no other worker writes into it: make this one before looking which checkpoint is the last.

    Args:
        parent: Folder of the run's checkpoints.
        config: The effective experiment, stored in each.
        manifest: JSON of the shards' manifest, stored in each.
        keep_best: Checkpoints kept by what the run selects by, beside the last.
        pause: Called with the seconds to wait before another attempt.

    Attributes:
        beside: Waits for work on the storage of the run.

    Raises:
        StorageError: The folder could not be written in any attempt.
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
        self.beside = Beside()
        self._pending: Work[None] | None = None
        self._failures = 0
        persist(self._take_over, "The order of the checkpoints", parent, pause)

    def _take_over(self) -> None:
        self._fence = Fence(self._parent)
        recover(self._parent)

    @property
    def failures(self) -> int:
        """Checkpoints that could not be written since the last one that could."""
        return self._failures

    def save(self, snapshot: Snapshot, before: Callable[[], object] = lambda: None) -> None:
        """Starts writing `snapshot`; waits for the one before, if that is still being written.

        Args:
            snapshot: What to write.
            before: Called first; an OSError of it is one of the checkpoint.

        Raises:
            StorageError: The one before is neither written nor refused.
            RunFolderError: Another worker has taken over the run.
        """
        self.settle()
        self._pending = Work(
            lambda: self._write(snapshot, before),
            f"Writing the checkpoint of step {snapshot.info.step} into {self._parent}",
        )

    def settle(self) -> None:
        """Waits until nothing is being written.

        Raises:
            StorageError: What is being written is neither taken nor refused.
            RunFolderError: Another worker has taken over the run.
        """
        work = self._ended()
        with contextlib.suppress(StorageError):  # told by the thread that met it
            if work is not None:
                work.result()

    def discard(self, step: int) -> None:
        """Removes the checkpoint of `step`, if there is one.

        Raises:
            StorageError: It is neither removed nor kept.
            RunFolderError: Another worker has taken over the run.
        """
        self.settle()
        folder = self._parent / folder_name(step)
        self.beside.do(lambda: self._discard(folder), f"Removing {folder}")

    def _discard(self, folder: Path) -> None:
        if folder.exists():
            self._fence.check()
            discard(folder)

    def close(self) -> None:
        """Waits until nothing is being written.

        Raises:
            StorageError: The last snapshot could not be written in any attempt, or is neither written nor refused.
            RunFolderError: Another worker has taken over the run.
        """
        work = self._ended()
        if work is not None:
            work.result()

    def _ended(self) -> Work[None] | None:
        """Returns what was being written, None where nothing was; what does not end stays what is being written."""
        work = self._pending
        if work is not None:
            self.beside.wait(work)
        self._pending = None
        return work

    def _write(self, snapshot: Snapshot, before: Callable[[], object]) -> None:
        info, folder, check = snapshot.info, self._parent, self._fence.check

        def write() -> None:
            before()
            write_checkpoint(folder, info, snapshot.model, self._config, self._manifest, snapshot.training, check)

        try:
            persist(write, f"The checkpoint of step {info.step}", folder, self._pause)
        except StorageError as error:
            self._failures += 1
            logger.warning("No checkpoint of step %d: %s", info.step, error.__cause__)
            raise
        self._failures = 0
        self._remove_superseded()

    def _remove_superseded(self) -> None:
        try:
            self._fence.check()
            for folder in superseded(costs(list_checkpoints(self._parent)), self._keep_best):
                discard(folder)
            remove_discarded(self._parent)
        except (OSError, CheckpointError) as error:
            # The new checkpoint is there; the next one brings another look at the old ones.
            logger.warning("Old checkpoints in %s could not be looked at (%s).", self._parent, error)


def superseded(costs: dict[Path, float | None], keep_best: int) -> list[Path]:
    """Returns the checkpoints that may go: neither the newest nor among the `keep_best` of the lowest cost.

    Args:
        costs: Of each checkpoint, None where it was not measured; oldest first.
        keep_best: How many of the measured ones stay.
    """
    folders = list(costs)
    kept = {*ranked(costs)[:keep_best], *folders[-1:]}
    return [folder for folder in folders if folder not in kept]
