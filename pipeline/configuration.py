"""What every configuration of the pipeline has in common: frozen, strict, comparable, and stored as YAML."""

import errno
import os
import re
import stat
import uuid
from pathlib import Path
from typing import Annotated, Any, TextIO

from pydantic import AfterValidator, BaseModel, ConfigDict
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from pipeline.errors import RunFolderError
from pipeline.stored import read_bytes, yaml_mapping, yaml_text

VOLATILE: JsonDict = {"volatile": True}
"""Mark for fields that change how a stage runs, not what it makes (workers, cores, how many episodes)."""

IDENTITY = "_identity.yaml"
"""What a folder was made from; hidden from readers of Parquet folders, as all names with an underscore are."""

_ADDED = (
    ("training", "learning_rate", "select_by", "loss"),
    ("data", "num_bins", "max_episode_steps", None),
    ("acting", "beam_width", "gpu_kernels", "torch"),
)
"""Settings that came later: their section, a setting that was always beside them, and what was done before."""
_ADVICE = "Choose another --name"


CREDENTIALS = "credentials"
"""Type of the error of a URI with credentials, whose value nobody may print."""


def expanded(place: str) -> str:
    """Returns a path or URI with the home folder for `~`, and the values of `$NAME` and `${NAME}`.

    Raises:
        PydanticCustomError: There is no such variable, or no such user, or it has a password or key in it, which
            would stand in every record of the run.
    """

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if name not in os.environ:
            raise PydanticCustomError("unset_variable", "{name} is not set", {"name": name})
        return os.environ[name]

    # As text: a Path would make one slash of a URI's two.
    at_home = os.path.expanduser(re.sub(r"\$\{(\w+)\}|\$(\w+)", value, place))  # noqa: PTH111
    if at_home.startswith("~"):
        raise PydanticCustomError("unknown_home", "it has no home folder")
    if re.match(r"[^/]*://[^/@]*:(?!\d+(/|$))[^@]*@", at_home):
        raise PydanticCustomError(CREDENTIALS, "it has credentials")
    return at_home


Place = Annotated[str, AfterValidator(expanded)]
"""A setting that names a file, a folder or a URI, from wherever the job is started."""


class Config(BaseModel):
    """Base of all configurations: unknown keys are refused, values are validated, instances never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    def identity(self) -> dict[str, Any]:
        """Returns the fields that decide what a stage makes, nested as in the configuration, volatile ones left out."""
        result: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra
            if isinstance(extra, dict) and extra.get("volatile"):
                continue
            value = getattr(self, name)
            result[name] = value.identity() if isinstance(value, Config) else self.model_dump(mode="json")[name]
        return result


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Returns one line for each field that differs, for example `planning.horizon: was 5, is 15`."""
    lines: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key, "absent"), new.get(key, "absent")
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: was {before!r}, is {after!r}")
    return lines


def claim_folder(folder: Path, identity: dict[str, Any], what: str, advice: str = _ADVICE) -> None:
    """Marks `folder` as made from `identity`, or checks that it already is.

    Args:
        folder: Created if absent; holds the identity as `_identity.yaml`, a name that readers of Parquet folders skip.
        identity: Everything that decides what will be in the folder.
        what: Words for the error, for example "the shards".
        advice: What to do instead of removing the folder, the beginning of a sentence.

    Raises:
        RunFolderError: The folder was made from another configuration (the message lists every differing field), or
            holds files of which nobody knows what made them.
    """
    path = folder / IDENTITY
    claimed = claimed_identity(folder)
    if claimed is None:
        strangers = sorted(found.name for found in folder.glob("[!_.]*"))
        if strangers:
            raise RunFolderError(
                f"{folder} holds {strangers[0]!r} but no {path.name}; expected {what} with it, or an empty folder. "
                "Move that folder away, or remove it to make it again."
            )
        write_text_atomically(path, yaml_text(identity))
        return
    require_same(folder, claimed, identity, what, advice)


def claimed_identity(folder: Path) -> dict[str, Any] | None:
    """Returns what `folder` was made from, None where nobody claimed it.

    Raises:
        RunFolderError: What says so is damaged.
    """
    path = folder / IDENTITY
    if not path.exists():
        return None
    try:
        content = read_bytes(path)
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from error
    return read_identity(content, folder)


def read_identity(content: bytes, folder: object) -> dict[str, Any]:
    """Returns what a folder was made from, with what its version did not know yet as it was then.

    Raises:
        RunFolderError: It is damaged.
    """
    try:
        claimed = yaml_mapping(content)
    except ValueError as error:
        raise _unreadable(folder, error) from error
    return _completed(claimed)


def _completed(claimed: dict[str, Any]) -> dict[str, Any]:
    completed = dict(claimed)
    for section, beside, name, value in _ADDED:
        if isinstance(settings := completed.get(section), dict) and beside in settings:
            completed[section] = {name: value, **settings}
    return completed


def _unreadable(folder: object, error: Exception) -> RunFolderError:
    return RunFolderError(
        f"{folder}/{IDENTITY} is not readable ({error}); expected what {folder} was made from. Move that folder away, "
        "or remove it to make it again."
    )


def require_same(
    folder: object, claimed: dict[str, Any], identity: dict[str, Any], what: str, advice: str = _ADVICE
) -> None:
    """Checks that what a folder was made from is `identity`.

    Raises:
        RunFolderError: It is not; the message lists every differing field.
    """
    lines = differences(_completed(claimed), _completed(identity))
    if lines:
        listing = "\n  ".join(lines)
        raise RunFolderError(
            f"{folder} holds {what} of another configuration; expected the same one.\n  {listing}\n"
            f"{advice}, or remove that folder to make it again."
        )


def absolute(location: str) -> str:
    """Returns a path or URI that means the same in every process; Ray's workers have other working directories."""
    return location if "://" in location else str(Path(location).absolute())


def open_own(path: Path) -> TextIO:
    """Opens a file of a fixed name to be read and written from its end, made if absent: itself, never what it links to.

    Who prepared the folder could else have any file of this user's emptied.

    Raises:
        RunFolderError: It is a link, has another name too, or is no regular file.
        OSError: The file system refuses.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise _not_own(path) from error
        raise
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.close(descriptor)
        raise _not_own(path)
    return os.fdopen(descriptor, "a+")


def _not_own(path: Path) -> RunFolderError:
    return RunFolderError(
        f"{path} is a link or no regular file; expected a file of its own. Remove it if you trust who made the folder."
    )


def write_text_atomically(path: Path, text: str) -> None:
    """Writes `text` as UTF-8; see `write_atomically`."""
    write_atomically(path, text.encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file, and its folder, so that a reader sees the old file or the whole new one, never a part.

    Raises:
        OSError: The file system refuses; the old file is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: the process of a lost actor may still be writing while another one begins. The leading dot
    # hides what a killed process left from readers of the folder.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            # Without it, a power failure may leave the new name with nothing behind it.
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
