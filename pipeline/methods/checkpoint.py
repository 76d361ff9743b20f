"""From a checkpoint's parts to the model of its method, and from one training's weights to another's."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from pipeline.configuration import differences
from pipeline.data.manifest import Manifest
from pipeline.errors import CheckpointError, PipelineError
from pipeline.methods.method import Method
from pipeline.methods.registry import method_of
from pipeline.methods.settings import MethodSettings
from pipeline.training.checkpoint import CheckpointInfo, CheckpointParts, read_checkpoint, unfit


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A trained model.

    Attributes:
        method: What it is.
        settings: Of its method.
        model: In evaluation mode.
        manifest: Of the shards that it was trained on; has the layout and the discretizer.
        config: The effective experiment as nested plain values.
        info: Step, epoch, validation loss.
        folder: Where it was read from.
    """

    method: Method[Any]
    settings: MethodSettings
    model: Any
    manifest: Manifest
    config: dict[str, Any]
    info: CheckpointInfo
    folder: Path


def load_checkpoint(folder: Path, device: str | torch.device = "cpu") -> LoadedCheckpoint:
    """Returns the verified checkpoint with its model on `device`, in evaluation mode.

    Raises:
        CheckpointError: It is missing, corrupt, of another format, or its parts do not fit together.
    """
    return loaded(read_checkpoint(folder), device)


def loaded(parts: CheckpointParts, device: str | torch.device = "cpu") -> LoadedCheckpoint:
    """Returns the model that the parts of a checkpoint are; see `load_checkpoint`."""
    try:
        method = method_of(parts.config["method"])
        settings = settings_of(method, parts.config)
        _require_shapes(method, settings, parts)
        model = method.make_model(settings, parts.manifest)
        model.load_state_dict(parts.weights)
    except (PipelineError, ValidationError, RuntimeError, KeyError) as error:
        raise unfit(parts.folder, error) from error
    return LoadedCheckpoint(
        method, settings, model.to(device).eval(), parts.manifest, parts.config, parts.info, parts.folder
    )


def _require_shapes(method: Method[Any], settings: MethodSettings, parts: CheckpointParts) -> None:
    """Checks that the weights are those of the settings, before memory is taken for what these say.

    Raises:
        CheckpointError: They are not.
    """
    found = {name: tuple(tensor.shape) for name, tensor in parts.weights.items()}
    # Tensors without memory.
    with torch.device("meta"):
        model = method.make_model(settings, parts.manifest)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    differing = [
        f"{name}: {found.get(name, 'absent')}, by its settings {wanted.get(name, 'absent')}"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if differing:
        raise CheckpointError("; ".join(differing[:3]))


def settings_of(method: Method[Any], config: dict[str, Any]) -> MethodSettings:
    """Returns the section of a method in an experiment of nested plain values."""
    return method.settings.model_validate(config[method.name])


def load_initial_weights(
    model: nn.Module, method: Method[Any], settings: MethodSettings, manifest: Manifest, source: str
) -> None:
    """Replaces the weights of `model`.

    What goes in should mean the same in both trainings: names and shapes are checked, bin edges are not, because
    starting from another data set of the same environment is the point.

    Args:
        model: Of the new run.
        method: That it is of.
        settings: Of the method.
        manifest: Of the data.
        source: A checkpoint's folder, or a file of another code that the method knows (`Method.foreign_weights`).

    Raises:
        CheckpointError: It cannot be read, or is of another method or shape.
    """
    path = Path(source)
    if not path.exists():
        raise CheckpointError(
            f"training.init_from is {source!r}, which does not exist; expected a checkpoint folder or a state_*.pt."
        )
    if path.is_file():
        model.load_state_dict(method.foreign_weights(path, model))
        return
    other = load_checkpoint(path)
    if other.method.name != method.name:
        raise CheckpointError(
            f"training.init_from is {source!r}, a model of {other.method.name}; expected one of {method.name}."
        )
    theirs = other.settings.of_the_model() | method.inputs(other.settings, other.manifest)
    ours = settings.of_the_model() | method.inputs(settings, manifest)
    if theirs != ours:
        raise CheckpointError(
            f"training.init_from is {source!r}, a model with other settings or data "
            f"({'; '.join(differences(theirs, ours))}); expected the same, so that its weights mean the same."
        )
    model.load_state_dict(other.model.state_dict())
