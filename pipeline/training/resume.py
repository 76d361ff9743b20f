"""Where a training begins: at the newest checkpoint of its run, at the weights of another training, or from nothing."""

import logging
import socket
from pathlib import Path

from pipeline.errors import CheckpointError
from pipeline.models.import_checkpoint import import_checkpoint
from pipeline.models.trajectory_transformer import TrajectoryTransformer
from pipeline.provenance import computed_by, other_processor
from pipeline.training.checkpoint import COMPUTED_BY, last_checkpoint, load_checkpoint, load_training_state, read_info
from pipeline.training.state import TrainingState
from pipeline.training.step import TrainStep
from pipeline.training.task import TrainingTask
from pipeline.training.world import World

logger = logging.getLogger(__name__)


def resume(task: TrainingTask, world: World, step: TrainStep, state: TrainingState) -> None:
    """Brings model, optimizer and state to where the run stands; every worker calls it.

    Raises:
        CheckpointError: The checkpoint is corrupt or this worker does not see it, or the initial weights do not fit.
    """
    folder = _newest(task.checkpoints, world)
    if folder is None:
        if task.training.init_from is not None:
            load_initial_weights(step.model, task.training.init_from)
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


def load_initial_weights(model: TrajectoryTransformer, source: str) -> None:
    """Replaces the weights of `model`.

    The tokens of the other training should mean the same: shapes are checked, bin edges are not, because starting from
    another data set of the same environment is the point.

    Args:
        model: Of the new run.
        source: A checkpoint folder of ours, or a `state_*.pt` of the public code.

    Raises:
        CheckpointError: It cannot be read, or is of another shape.
    """
    path = Path(source)
    if not path.exists():
        raise CheckpointError(
            f"training.init_from is {source!r}, which does not exist; expected a checkpoint folder or a state_*.pt."
        )
    if path.is_file():
        model.load_state_dict(import_checkpoint(path, model.config, model.layout))
        return
    other = load_checkpoint(path).model
    if (other.config.model_copy(update={"dropout": model.config.dropout}), other.layout) != (
        model.config,
        model.layout,
    ):
        raise CheckpointError(
            f"training.init_from is {source!r}, a model of {other.config} for {other.layout.transition_dim} tokens; "
            f"expected {model.config} for {model.layout.transition_dim} tokens of the same names and bins."
        )
    model.load_state_dict(other.state_dict())
