"""Where a training begins: at the newest checkpoint of its run, at the weights of another training, or from nothing."""

import logging
import socket
from collections.abc import Callable
from pathlib import Path

from torch import nn

from pipeline.errors import CheckpointError
from pipeline.provenance import computed_by, other_processor
from pipeline.training.checkpoint import COMPUTED_BY, last_checkpoint, load_training_state, read_info
from pipeline.training.state import TrainingState
from pipeline.training.step import TrainStep
from pipeline.training.world import World

logger = logging.getLogger(__name__)


def resume(
    checkpoints: Path,
    world: World,
    step: TrainStep,
    state: TrainingState,
    load_initial: Callable[[nn.Module], None] | None,
) -> None:
    """Brings model, optimizer and state to where the run stands; every worker calls it.

    Args:
        checkpoints: Of the run.
        world: The workers.
        step: Has model and optimizer.
        state: Before the first step.
        load_initial: Replaces the weights where there is no checkpoint, None where these stay as they are.

    Raises:
        CheckpointError: The checkpoint is corrupt or this worker does not see it, or the initial weights do not fit.
    """
    folder = _newest(checkpoints, world)
    if folder is None:
        if load_initial is not None:
            load_initial(step.model)
        return
    if world.rank == 0:
        _tell_of_another_processor(folder, world)
    model, training = load_training_state(folder)
    step.model.load_state_dict(model)
    step.optimizer.load_state_dict(training["optimizer"])
    state.load_state_dict(training["state"], world)


def _tell_of_another_processor(folder: Path, world: World) -> None:
    before = (read_info(folder).trained_on or {}).get(COMPUTED_BY)
    now = computed_by(world.device)
    if before is not None and before != now:
        logger.warning("%s", other_processor(folder.name, [before], [now]))


def _newest(parent: Path, world: World) -> Path | None:
    """Returns the newest checkpoint that worker 0 sees: listings of a network file system may differ among nodes."""
    folder = world.broadcast(last_checkpoint(parent) if world.rank == 0 else None)
    if folder is not None and not folder.is_dir():
        raise CheckpointError(
            f"{folder} is not there for worker {world.rank} on {socket.gethostname()}; expected the checkpoint that "
            "worker 0 continues from. --runs must be one folder that all nodes share; a network file system may need a "
            "minute until all of them see the same. Run the same command again: it resumes."
        )
    return folder
