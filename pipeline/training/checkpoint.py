"""Checkpoints on disk: self-contained folders that need no Ray to be read and no pickle to be loaded.

A folder holds `model.safetensors`, `config.yaml` (the effective experiment), `manifest.json` (layout and bin edges),
`training.pt` (what resuming needs), and `checkpoint.json`, which has the format's version and the sha256 of all others.
A folder is written under another name and renamed when complete, so that no folder `step-*` is ever a part of a
checkpoint (`pipeline.training.folders`). When a checkpoint is written, and which are kept, is not decided here.
"""

import hashlib
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors
import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import Tensor

from pipeline.configuration import write_atomically
from pipeline.data.manifest import Manifest
from pipeline.errors import CheckpointError
from pipeline.findings import findings
from pipeline.stored import read_bytes, sealed, unsealed, yaml_mapping, yaml_text
from pipeline.training.config import LOSS
from pipeline.training.folders import appearing
from pipeline.training.objective import MEASURE, cost

FORMAT_VERSION = 2
MODEL, CONFIG, MANIFEST, TRAINING, INFO = (
    "model.safetensors",
    "config.yaml",
    "manifest.json",
    "training.pt",
    "checkpoint.json",
)
COMPUTED_BY = "computed by"
"""In `CheckpointInfo.trained_on`: the kind of processor (`pipeline.provenance.computed_by`)."""

_FILES = Literal["model.safetensors", "config.yaml", "manifest.json", "training.pt"]
_SUMS = TypeAdapter(dict[_FILES, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]])

_AGAIN = "Remove that folder and train again, or name another checkpoint."


@dataclass(frozen=True)
class Selection:
    """What a run's checkpoints are compared by, where it is not the loss (`training.select_by`).

    Attributes:
        measure: Its name.
        value: On the held-out episodes at this step, None where it was not measured.
    """

    measure: Annotated[str, Field(pattern=MEASURE)]
    value: float | None


@dataclass(frozen=True)
class CheckpointInfo:
    """What `checkpoint.json` says beside the checksums.

    Attributes:
        step: Optimizer steps done.
        epoch: Epochs completed and reported; at an epoch's end, before its validation, it is not yet counted.
        validation_loss: Loss on the held-out episodes at this step, None where it was not measured: inside an epoch,
            before its validation, or without such episodes.
        trained_on: Machine of worker 0, number of workers and git commit of the process that wrote it, in words; None
            in checkpoints from before this was recorded.
        selection: What the run's checkpoints are compared by, None for the validation loss.
    """

    step: int
    epoch: int
    validation_loss: float | None
    trained_on: dict[str, str] | None = None
    selection: Selection | None = None

    @property
    def selected_by(self) -> Selection:
        """What the run's checkpoints are compared by."""
        return self.selection or Selection(LOSS, self.validation_loss)

    @property
    def cost(self) -> float | None:
        """A number that is the lower the better this one is among the run's, None where it was not measured."""
        measure, value = self.selected_by.measure, self.selected_by.value
        return None if value is None else cost(measure, value)


_INFO = TypeAdapter(CheckpointInfo)
_DESCRIBED = ("format_version", "sha256", *(field.name for field in fields(CheckpointInfo)))


@dataclass(frozen=True)
class CheckpointParts:
    """A checkpoint in memory, of whichever method; `pipeline.methods.checkpoint` makes a model of it.

    Attributes:
        weights: State dict of the model, on the CPU.
        manifest: Of the shards that it was trained on.
        config: The effective experiment as nested plain values.
        info: Step, epoch, validation loss.
        folder: Where it was read from.
    """

    weights: dict[str, Tensor]
    manifest: Manifest
    config: dict[str, Any]
    info: CheckpointInfo
    folder: Path


def folder_name(step: int) -> str:
    """Returns the name of the checkpoint of `step`; names sort by step."""
    return f"step-{step:09d}"


def write_checkpoint(
    parent: Path,
    info: CheckpointInfo,
    model: dict[str, Tensor],
    config: dict[str, Any],
    manifest: str,
    training: dict[str, Any] | None,
    confirm: Callable[[], None] = lambda: None,
) -> Path:
    """Writes one checkpoint; it appears complete or not at all, and takes the place of an older one of the same step.

    Args:
        parent: Folder of the run's checkpoints.
        info: Step, epoch, validation loss.
        model: State dict, on the CPU.
        config: The effective experiment.
        manifest: JSON of the shards' manifest.
        training: Optimizer and running sums, plain values and tensors on the CPU; None where nothing resumes from it.
        confirm: Called when all is on the disk, before it is a checkpoint; what it raises leaves things as they were.

    Returns:
        The folder.

    Raises:
        OSError: The file system refuses; nothing new that looks like a checkpoint is left.
    """
    folder = parent / folder_name(info.step)
    # Serialised in memory first: a full disk is then one kind of error (OSError), not one for each library.
    contents = {
        MODEL: serialise({name: tensor.contiguous() for name, tensor in model.items()}),
        CONFIG: yaml_text(config).encode(),
        MANIFEST: manifest.encode(),
    }
    if training is not None:
        contents[TRAINING] = _torch_bytes(training)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    description = {"format_version": FORMAT_VERSION, **asdict(info), "sha256": digests}
    contents[INFO] = sealed(description).encode()
    with appearing(folder) as partial:
        for name, content in contents.items():
            # Its folder gets its name when all of it is on the disk, so that a power failure leaves no torn checkpoint.
            write_atomically(partial / name, content)
        confirm()
    return folder


def _torch_bytes(value: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def sha256(path: Path) -> str:
    """Returns the sha256 of a file's bytes, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_checkpoints(parent: Path) -> list[Path]:
    """Returns the complete checkpoints of a run, oldest first."""
    return sorted(path for path in parent.glob("step-*") if (path / INFO).is_file())


def last_checkpoint(parent: Path) -> Path | None:
    """Returns the newest checkpoint, None if there is none."""
    return next(reversed(list_checkpoints(parent)), None)


def best_checkpoint(parent: Path) -> Path:
    """Returns the checkpoint that is best by what the run selects by, the newest where none was measured.

    Raises:
        CheckpointError: There is no checkpoint.
    """
    folders = list_checkpoints(parent)
    if not folders:
        raise CheckpointError(f"{parent} holds no checkpoint; expected one. Run jobs/train.py first.")
    return next(iter(ranked(costs(folders))), folders[-1])


def costs(folders: Iterable[Path]) -> dict[Path, float | None]:
    """Returns the cost of each checkpoint, None where it was not measured; see `CheckpointInfo.cost`.

    Raises:
        CheckpointError: A description is unreadable.
    """
    return {folder: read_info(folder).cost for folder in folders}


def ranked(costs: Mapping[Path, float | None]) -> list[Path]:
    """Returns those checkpoints whose cost was measured: the best first, of equal ones the older first."""
    return [folder for _, folder in sorted((cost, folder) for folder, cost in costs.items() if cost is not None)]


def read_info(folder: Path) -> CheckpointInfo:
    """Returns what `checkpoint.json` says, without checking the other files.

    Raises:
        CheckpointError: It is absent, unreadable, or of another format.
    """
    return _read_description(folder).info


@dataclass(frozen=True)
class _Description:
    info: CheckpointInfo
    sums: Mapping[_FILES, str]


def _read_description(folder: Path) -> _Description:
    path = folder / INFO
    try:
        content = unsealed(read_bytes(path), _DESCRIBED)
        version = content["format_version"]
    except FileNotFoundError as error:
        raise _gone(folder) from error
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} is not readable ({error}); expected the description of a checkpoint. {_AGAIN}"
        ) from error
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version}; expected {FORMAT_VERSION}. "
            "Another version of the pipeline wrote it: read it with that one, or train again."
        )
    try:
        # Only files of these names are ever looked at, whatever a description names.
        sums = _SUMS.validate_python(content.pop("sha256", None))
        missing = {MODEL, CONFIG, MANIFEST} - sums.keys()
        if missing:
            raise CheckpointError(f"{path} has no sha256 of {', '.join(sorted(missing))}; expected one. {_AGAIN}")
        return _Description(_INFO.validate_python(content, extra="ignore"), sums)
    except ValidationError as error:
        told = findings(error, content).replace("\n", " ")
        raise CheckpointError(f"{path} does not describe a checkpoint: {told} {_AGAIN}") from error


def _gone(folder: Path) -> CheckpointError:
    return CheckpointError(
        f"{folder / INFO} is not there; expected the description of a checkpoint. A training that goes on replaces its "
        "checkpoints: run the same command again, or train with a larger training.keep_best; else name another one."
    )


def _incomplete(folder: Path, name: str) -> CheckpointError:
    """Returns the error of a file that is missing; a checkpoint that was replaced meanwhile lacks all of them."""
    if not (folder / INFO).is_file():
        return _gone(folder)
    return CheckpointError(f"{folder / name} is missing; expected the file that {INFO} names. {_AGAIN}")


def verify(folder: Path) -> CheckpointInfo:
    """Checks every file of the checkpoint against its sha256.

    Raises:
        CheckpointError: A file is missing or differs, or the description is of another format.
    """
    description = _read_description(folder)
    for name, expected in description.sums.items():
        path = folder / name
        if not path.is_file():
            raise _incomplete(folder, name)
        try:
            found = sha256(path)
        except FileNotFoundError as error:
            raise _incomplete(folder, name) from error
        if found != expected:
            raise CheckpointError(
                f"{path} is corrupt: its sha256 is {found[:12]}...; expected {expected[:12]}... of {INFO}. {_AGAIN}"
            )
    return description.info


def read_checkpoint(folder: Path) -> CheckpointParts:
    """Returns the verified checkpoint.

    Raises:
        CheckpointError: It is missing, corrupt, or of another format.
    """
    folder = Path(folder)
    info = verify(folder)
    try:
        manifest = Manifest.from_json((folder / MANIFEST).read_text())
        config = checkpoint_config(folder)
        weights = load_file(folder / MODEL)
    except FileNotFoundError as error:
        raise _incomplete(folder, Path(error.filename or MODEL).name) from error
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise unfit(folder, error) from error
    return CheckpointParts(weights, manifest, config, info, folder)


def checkpoint_config(folder: Path) -> dict[str, Any]:
    """Returns the effective experiment of a verified checkpoint, as nested plain values.

    Raises:
        CheckpointError: It is none.
    """
    try:
        return yaml_mapping(read_bytes(folder / CONFIG))
    except (OSError, ValueError) as error:
        raise unfit(folder, error) from error


def unfit(folder: Path, error: Exception) -> CheckpointError:
    """Returns the error of a checkpoint whose parts are no model."""
    return CheckpointError(
        f"{folder} does not hold a model of this pipeline ({error}); expected parts that fit together. {_AGAIN}"
    )


def require_same_tokens(folder: Path, manifest: Manifest) -> None:
    """Checks that the checkpoint was trained on tokens of the same meaning as `manifest`'s.

    Raises:
        CheckpointError: Layout or bin edges differ, or the checkpoint is corrupt.
    """
    verify(folder)
    theirs = Manifest.from_json((folder / MANIFEST).read_text(), str(folder / MANIFEST))
    if theirs.layout != manifest.layout:
        raise CheckpointError(
            f"{folder} was made for {_words(theirs)}; expected the layout of the shards, {_words(manifest)}. "
            "Train under another --name, or prepare the data again as it was."
        )
    if theirs.edges != manifest.edges:
        raise CheckpointError(
            f"{folder} was made for other bin edges than those of the shards; expected the same. "
            "Train under another --name, or prepare the data again as it was."
        )


def _words(manifest: Manifest) -> str:
    layout = manifest.layout
    return (
        f"{layout.observation_dim} observation and {layout.action_dim} action tokens of {layout.num_bins} bins "
        f"({sum(layout.bins)} bins in all)"
    )


def load_training_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns the state dict of the model and what `write_checkpoint` was given as `training`, both on the CPU.

    Raises:
        CheckpointError: The checkpoint is corrupt.
    """
    verify(folder)
    training = torch.load(folder / TRAINING, map_location="cpu", weights_only=True)
    return load_file(folder / MODEL), training
