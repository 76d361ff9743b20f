"""What a new run starts from: fresh weights, or those of another training."""

from pathlib import Path

from pipeline.errors import CheckpointError
from pipeline.models.import_checkpoint import import_checkpoint
from pipeline.models.trajectory_transformer import TrajectoryTransformer
from pipeline.training.checkpoint import load_checkpoint


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
