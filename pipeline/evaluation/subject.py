"""What is evaluated: a trained model's checkpoint, and the manifest of the data that it learnt from."""

from pathlib import Path

from pydantic import ValidationError

from pipeline.data.manifest import Manifest, read_manifest
from pipeline.data.storage import Location
from pipeline.errors import CheckpointError
from pipeline.methods.checkpoint import settings_of
from pipeline.methods.registry import METHODS
from pipeline.methods.settings import MethodSettings
from pipeline.training.checkpoint import MANIFEST, MODEL, best_checkpoint, checkpoint_config, sha256, unfit, verify


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


def load_manifest(shards: Location, checkpoint: Path | None) -> Manifest:
    """Returns the manifest of the data that the model was trained on; of `shards` without a model.

    Args:
        shards: Where the run's shards lie.
        checkpoint: Folder of the model, None where no row has one.

    Raises:
        ManifestError: It is missing or damaged.
    """
    if checkpoint is None:
        return read_manifest(shards)
    path = checkpoint / MANIFEST
    return Manifest.from_json(path.read_text(), str(path))


def trained_settings(checkpoint: Path, method: str) -> MethodSettings:
    """Returns the settings of its method that a verified checkpoint was trained with.

    Raises:
        CheckpointError: It is of another method, or its settings are not this version's.
    """
    config = checkpoint_config(checkpoint)
    if config.get("method") != method:
        raise CheckpointError(
            f"{checkpoint} is a model of the method {config.get('method')}; expected one of {method}: set --method to "
            "the model's, or name another checkpoint."
        )
    try:
        return settings_of(METHODS[method], config)
    except (ValidationError, KeyError) as error:
        raise unfit(checkpoint, error) from error
