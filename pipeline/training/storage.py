"""What a run's folder can take: asked before the first step, and with patience whenever something is written."""

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.configuration import open_own
from pipeline.errors import StorageError
from pipeline.training.config import TrainingConfig

logger = logging.getLogger(__name__)

_GIB = 2**30
ATTEMPTS = 5
FIRST_PAUSE_SECONDS = 1.0
"""Pauses double: 1, 2, 4, 8 s, so that a storage that is gone for 15 s costs nothing but a warning."""
BYTES_PER_PARAMETER = 12
"""float32 weights and the two moments of AdamW."""


def checkpoint_room(parameters: int, config: TrainingConfig) -> int:
    """Returns the bytes of all checkpoints that lie on the disk at once.

    The best ones, the last, and the one being written, each with weights and optimizer.
    """
    return parameters * BYTES_PER_PARAMETER * (config.keep_best + 2)


def require_room(folder: Path, needed: int) -> None:
    """Checks that `folder` can be made and written, and that it holds `needed` bytes or its disk has room for the rest.

    Raises:
        StorageError: It cannot, or has not.
    """
    probe = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open_own(probe) as file:
            file.write("x")
        probe.unlink()
        free, held = shutil.disk_usage(folder).free, _bytes_in(folder)
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be written ({error}); expected a folder for checkpoints. "
            "Choose another --runs, or give this user access."
        ) from error
    if free + held < needed:
        raise StorageError(
            f"{folder} has {free / _GIB:.3g} GiB left beside the {held / _GIB:.3g} GiB that it holds; expected at "
            f"least {needed / _GIB:.3g} GiB in all for the checkpoints. "
            "Free space, choose another --runs, or lower training.keep_best."
        )


def _bytes_in(folder: Path) -> int:
    held = 0
    # A worker that outlives its driver may remove some meanwhile: what is gone counts nothing.
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                held += (Path(parent) / name).lstat().st_size
    return held


def persist(write: Callable[[], object], what: str, place: Path, pause: Callable[[float], None] = time.sleep) -> None:
    """Calls `write` again and again until the storage takes it.

    Args:
        write: Can be called again after an OSError.
        what: Is written, for the words of warnings and the error.
        place: File or folder that it goes to.
        pause: Called with the seconds to wait before another attempt.

    Raises:
        StorageError: No attempt succeeded.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            write()
            return
        except OSError as error:
            told = f"{what} could not be written to {place} ({error})"
            if attempt == ATTEMPTS:
                raise StorageError(
                    f"{told} in {ATTEMPTS} attempts; expected storage that can be written. "
                    "Free space or restore access, then run the same command again: it resumes."
                ) from error
        seconds = FIRST_PAUSE_SECONDS * 2 ** (attempt - 1)
        logger.warning("%s; attempt %d of %d follows in %g s.", told, attempt + 1, ATTEMPTS, seconds)
        pause(seconds)
