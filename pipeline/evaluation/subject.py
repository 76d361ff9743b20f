"""What is evaluated: a trained model's checkpoint, and the manifest of the data that it learnt from."""

from pathlib import Path

from pipeline.data.manifest import Manifest, read_manifest
from pipeline.data.storage import Location
from pipeline.errors import ConfigError
from pipeline.training.checkpoint import MANIFEST, MODEL, best_checkpoint, sha256, verify


def checkpoint_folder(configured: str | None, checkpoints: Path) -> Path:
    """Returns the verified checkpoint that is evaluated: the configured one, else the best in the folder `checkpoints`.

    Raises:
        CheckpointError: There is none, or it is damaged.
    """
    folder = best_checkpoint(checkpoints) if configured is None else Path(configured).resolve()
    verify(folder)
    return folder


def model_sums(checkpoint: Path) -> dict[str, str]:
    """Returns the sha256 of the files of a checkpoint that episodes depend on, which its folder's name may not say."""
    return {name: sha256(checkpoint / name) for name in (MODEL, MANIFEST)}


def load_manifest(shards: Location, checkpoint: Path | None, discount: float) -> Manifest:
    """Returns the manifest of the data that the model was trained on; of `shards` without a model.

    Args:
        shards: Where the run's token shards lie.
        checkpoint: Folder of the model, None where no method has one.
        discount: The planner's.

    Raises:
        ManifestError: It is missing or damaged.
        ConfigError: The planner's discount is not that of its values.
    """
    if checkpoint is None:
        manifest = read_manifest(shards)
    else:
        path = checkpoint / MANIFEST
        manifest = Manifest.from_json(path.read_text(), str(path))
    if discount != manifest.discount:
        raise ConfigError(
            f"planning.discount is {discount}; expected {manifest.discount}, the discount of the values that the model "
            "learnt: a plan's rewards are added to one of them. Set planning.discount and data.discount to it, or "
            "prepare and train under another --name."
        )
    return manifest
