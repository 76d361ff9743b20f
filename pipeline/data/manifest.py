"""What a folder of shards holds: the one file that makes them mean something, written last.

A folder without it is unfinished, whatever else lies there.
"""

import hashlib
import json
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.data.returns import RewardTreatment
from pipeline.data.spaces import Spaces
from pipeline.data.statistics import Statistics
from pipeline.data.storage import Folder, Location
from pipeline.errors import ManifestError
from pipeline.stored import sealed, unsealed
from pipeline.tokens.discretizer import Discretizer
from pipeline.tokens.layout import TransitionLayout

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION: Literal[2] = 2
MADE_AGAIN = "run jobs/prepare.py with the run's configuration, which makes it again."
"""What to do about a shard that is not the manifest's."""


class Record(BaseModel):
    """Base of the manifest's parts: frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceRecord(Record):
    """One data set that went in.

    Attributes:
        name: Its Minari id, or its file.
        episodes: Episodes taken.
        steps: Environment steps of these.
        available_episodes: Episodes that it holds.
        fingerprint: sha256 of what identifies its content, without reading all of it.
        environment: Gymnasium id, max_episode_steps and kwargs of the environment it was collected in, None if unknown.
        reference_scores: Returns of a random and an expert policy that it names, None if none.
    """

    name: str
    episodes: int
    steps: int
    available_episodes: int
    fingerprint: str
    environment: dict[str, Any] | None = None
    reference_scores: tuple[float, float] | None = None


class ShardRecord(Record):
    """One Parquet file.

    Attributes:
        file: Its name in the manifest's folder.
        sha256: Of its bytes.
        bytes: Its size.
        rows: Episodes, or fragments of long ones.
        steps: Environment steps.
        clipped: Values outside the outer edges, for each dimension.
    """

    file: str
    sha256: str
    bytes: int
    rows: int
    steps: int
    clipped: tuple[int, ...]


class Totals(Record):
    """Sums over all shards."""

    episodes: int
    validation_episodes: int
    steps: int
    validation_steps: int


class Manifest(Record):
    """Everything that training, planning and evaluation must know of the shards.

    Attributes:
        format_version: Of this file.
        layout: Which token is what.
        edges: Bin edges of each dimension, `layout.bins[d] + 1` numbers.
        centers: What the tokens of each dimension decode to, `layout.bins[d]` numbers.
        discretizer_kind: How edges were found: `quantile`, `uniform`, or `given` by another manifest.
        spaces: How the environment's observations and actions become columns.
        treatment: What was done with the rewards.
        columns: What the shards hold of each step, beside what they say of the episode.
        seed: Root seed of the validation split.
        sources: Data sets, in order.
        shards: Files, in order.
        totals: Sums over them.
        statistics: What one pass over the data found.
        versions: Of the libraries that decide bytes.
    """

    format_version: Literal[2] = 2
    layout: TransitionLayout
    edges: tuple[tuple[float, ...], ...]
    centers: tuple[tuple[float, ...], ...]
    discretizer_kind: Literal["quantile", "uniform", "given"]
    spaces: Spaces
    treatment: RewardTreatment
    columns: tuple[str, ...]
    seed: int
    sources: tuple[SourceRecord, ...]
    shards: tuple[ShardRecord, ...]
    totals: Totals
    statistics: Statistics
    versions: dict[str, str]

    @cached_property
    def discretizer(self) -> Discretizer:
        """The discretizer that made the tokens."""
        edges = [np.array(row, dtype=np.float64) for row in self.edges]
        return Discretizer.from_rows(self.layout, edges, [np.array(row, dtype=np.float64) for row in self.centers])

    def to_json(self) -> str:
        """Returns the manifest's text; `from_json` gives an equal manifest back, float for float."""
        return self.model_dump_json(indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, origin: str = MANIFEST_NAME) -> "Manifest":
        """Returns the manifest that `to_json` wrote.

        Args:
            text: The JSON.
            origin: Where it came from, for the error.

        Raises:
            ManifestError: It is no manifest, or of another version.
        """
        try:
            manifest = cls.model_validate_json(text)
            manifest.discretizer.encode_columns([], slice(0, 0))  # built here, so that bad edges are found here
        except (ValidationError, ValueError) as error:
            raise ManifestError(
                f"{origin} is not a manifest of format version {FORMAT_VERSION} ({_first_line(error)}); expected what "
                "jobs/prepare.py of this version writes. Run it again."
            ) from error
        return manifest


def read_manifest(folder: Location) -> Manifest:
    """Returns the manifest of a folder of shards and checks that every shard is there, but not what is in it.

    Raises:
        ManifestError: No manifest, a broken one, or a shard that is missing.
    """
    place = Folder(folder)
    names = place.names()
    if MANIFEST_NAME not in names:
        raise ManifestError(
            f"{place} has no {MANIFEST_NAME}; expected finished shards. jobs/prepare.py writes it last: run it (again)."
        )
    manifest = read_manifest_alone(place)
    missing = sorted({shard.file for shard in manifest.shards} - set(names))
    if missing:
        raise ManifestError(f"{place} lacks {missing}; expected every shard of its {MANIFEST_NAME}. R{MADE_AGAIN[1:]}")
    return manifest


def read_manifest_alone(folder: Folder) -> Manifest:
    """Returns the manifest of a folder whatever shards are there.

    Raises:
        ManifestError: It is broken.
        StorageError: It is not there, or cannot be read.
    """
    place = f"{folder}/{MANIFEST_NAME}"
    try:
        values = unsealed(folder.read(MANIFEST_NAME), Manifest.model_fields)
    except ValueError as error:
        raise ManifestError(
            f"{place} is not readable ({error}); expected what jobs/prepare.py writes. R{MADE_AGAIN[1:]}"
        ) from error
    return Manifest.from_json(json.dumps(values), place)


def write_manifest(folder: Location, manifest: Manifest) -> None:
    """Writes the manifest, whole or not at all."""
    Folder(folder).write(MANIFEST_NAME, sealed(json.loads(manifest.to_json())).encode())


def read_shard(folder: Folder, shard: ShardRecord) -> bytes:
    """Returns a shard's bytes.

    Raises:
        ManifestError: They are not those that the manifest was written for.
    """
    content = folder.read(shard.file)
    if difference := _difference(content, shard):
        raise ManifestError(
            f"{folder}/{shard.file} {difference}; expected the bytes that {MANIFEST_NAME} was written for. It was "
            f"changed or damaged: {MADE_AGAIN}"
        )
    return content


def damage(folder: Folder, shard: ShardRecord) -> str:
    """Returns in words how a shard differs from what the manifest was written for, "" where it does not.

    All of it is read: from the page cache 0.04 s for the 64 MB of hopper's million steps (1.8 GB/s, one core of an AMD
    EPYC), else what the disk or the network takes.

    Raises:
        StorageError: It is there and cannot be read.
    """
    return _difference(folder.read(shard.file), shard) if folder.exists(shard.file) else "is missing"


def _difference(content: bytes, shard: ShardRecord) -> str:
    if len(content) != shard.bytes:
        return f"has {len(content):,} bytes instead of {shard.bytes:,}"
    digest = hashlib.sha256(content).hexdigest()
    return "" if digest == shard.sha256 else f"has the sha256 {digest[:12]}... instead of {shard.sha256[:12]}..."


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return str(error).partition("\n")[0]
