"""Whether a run's folder can take what the training will write, asked before the first step."""

import shutil
from pathlib import Path

from pipeline.errors import StorageError
from pipeline.training.config import TrainingConfig

_GIB = 2**30
BYTES_PER_PARAMETER = 12
"""float32 weights and the two moments of AdamW."""


def checkpoint_room(parameters: int, config: TrainingConfig) -> int:
    """Returns the bytes of all checkpoints that lie on the disk at once.

    The best ones, the last, and the one being written, each with weights and optimizer.
    """
    return parameters * BYTES_PER_PARAMETER * (config.keep_best + 2)


def require_room(folder: Path, needed: int) -> None:
    """Checks that `folder` can be made and written, and that its disk has `needed` bytes left.

    Raises:
        StorageError: It cannot, or has not.
    """
    probe = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be written ({error}); expected a folder for checkpoints. "
            "Choose another --runs, or give this user access."
        ) from error
    if free < needed:
        raise StorageError(
            f"{folder} has {free / _GIB:.3g} GiB left; expected at least {needed / _GIB:.3g} GiB for the checkpoints. "
            "Free space, choose another --runs, or lower training.keep_best."
        )
