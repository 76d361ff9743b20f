"""Shards: Parquet files with one row per episode, readable by anything that reads Parquet.

A row holds the episode's tokens, its values in float32 (observations, one more than steps; actions; rewards), or both.
The bytes of a shard depend on its episodes, the settings and pyarrow's version alone.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.data.config import Store
from pipeline.data.manifest import MADE_AGAIN, Manifest, ShardRecord, read_manifest, read_shard
from pipeline.data.returns import RewardTreatment, returns_to_go
from pipeline.data.storage import Folder, Location
from pipeline.data.table import (
    ACTIONS,
    OBSERVATIONS,
    RETURNS_TO_GO,
    REWARDS,
    TOKENS,
    EpisodeTable,
    Rank,
    Split,
    held,
)
from pipeline.data.transitions import transition_table
from pipeline.errors import DataError, ManifestError
from pipeline.records import Episode
from pipeline.tokens.discretizer import Discretizer

_VALUES = (OBSERVATIONS, ACTIONS, REWARDS)

_FACTS = (
    pa.field("source", pa.string(), nullable=False),
    pa.field("episode_id", pa.int64(), nullable=False),
    pa.field("start", pa.int64(), nullable=False),
    pa.field("length", pa.int32(), nullable=False),
    pa.field("split", pa.string(), nullable=False),
    pa.field("total_reward", pa.float64(), nullable=False),
    pa.field("terminated", pa.bool_(), nullable=False),
    pa.field("truncated", pa.bool_(), nullable=False),
)
"""Columns of a row that say what it is of."""

FORMAT = 2
"""Of a shard; one of another format is made again."""


@dataclass(frozen=True)
class ShardSettings:
    """What the content of a shard depends on beside its episodes.

    Attributes:
        discretizer: Makes the tokens.
        treatment: What is done with the rewards.
        store: Whether tokens, values or both are stored.
        steps_per_row: Longer episodes are split into rows of this many steps.
        origin: Names the data that the episodes come from.
    """

    discretizer: Discretizer
    treatment: RewardTreatment
    store: Store
    steps_per_row: int
    origin: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """What is stored of each step."""
        return ((TOKENS,) if self.store != "values" else ()) + (_VALUES if self.store != "tokens" else ())

    @property
    def schema(self) -> "pa.Schema":
        """The columns of a shard."""
        lists = [
            pa.field(name, pa.list_(pa.field(name.removesuffix("s"), self._type(name), nullable=False)), nullable=False)
            for name in self.columns
        ]
        return pa.schema([*_FACTS, *lists])

    @property
    def repeated_columns(self) -> list[str]:
        """Parquet's paths of columns whose numbers recur: a dictionary of float32 values is larger than they are."""
        return [*(field.name for field in _FACTS), *(_path(name) for name in self.columns if name == TOKENS)]

    @property
    def encodings(self) -> dict[str, str]:
        """How the other columns are written: first bytes together, then second ones; 64 instead of 100 bytes a step."""
        return {_path(name): "BYTE_STREAM_SPLIT" for name in self.columns if name != TOKENS}

    def _type(self, column: str) -> "pa.DataType":
        if column != TOKENS:
            return pa.float32()
        return pa.uint8() if self.discretizer.dtype is np.uint8 else pa.uint16()

    @property
    def digest(self) -> str:
        """sha256 of all settings; a shard carries it, so that none of other settings or data is taken for finished."""
        hasher = hashlib.sha256(
            repr((FORMAT, self.treatment.model_dump(), self.store, self.steps_per_row, self.origin)).encode()
        )
        hasher.update(repr(self.discretizer.layout).encode())
        hasher.update(self.discretizer.edges.tobytes())
        return hasher.hexdigest()


def _path(column: str) -> str:
    return f"{column}.list.element"


def shard_name(index: int) -> str:
    """Returns the file name of shard `index`."""
    return f"shard-{index:05d}.parquet"


def write_shard(
    folder: Folder, index: int, episodes: Iterable[tuple[Episode, Split]], settings: ShardSettings
) -> ShardRecord:
    """Encodes episodes and writes them as one file, whole or not at all.

    Args:
        folder: Where to.
        index: Number of the shard; names the file.
        episodes: In the order of the rows.
        settings: What the content depends on.
    """
    clipped = np.zeros(settings.discretizer.layout.transition_dim, dtype=np.int64)
    sink, rows, steps, waiting = pa.BufferOutputStream(), 0, 0, 0
    pending: list[_Row] = []
    with pq.ParquetWriter(
        sink,
        settings.schema,
        compression="zstd",
        compression_level=3,
        use_dictionary=settings.repeated_columns,
        column_encoding=settings.encodings,
    ) as writer:
        for episode, split in episodes:
            table = transition_table(episode, settings.treatment)
            clipped += settings.discretizer.clipped(table)
            for row in _rows(episode, split, table, settings):
                pending.append(row)
                rows, steps, waiting = rows + 1, steps + row["length"], waiting + row["length"]
                if waiting >= settings.steps_per_row:
                    writer.write_table(_table(pending, settings.schema))
                    pending, waiting = [], 0
        if pending:
            writer.write_table(_table(pending, settings.schema))
        facts = {"settings": settings.digest, "rows": rows, "steps": steps, "clipped": clipped.tolist()}
        writer.add_key_value_metadata({"pipeline": json.dumps(facts)})
    content = sink.getvalue().to_pybytes()
    folder.write(shard_name(index), content)
    return _record(shard_name(index), content, facts)


def finished_shard(folder: Folder, index: int, settings: ShardSettings) -> ShardRecord | None:
    """Returns the record of a shard that an earlier run finished with the same settings, None if there is none."""
    name = shard_name(index)
    if not folder.exists(name):
        return None
    content = folder.read(name)
    try:
        facts = json.loads(pq.read_metadata(pa.BufferReader(content)).metadata[b"pipeline"])
    except (pa.ArrowInvalid, KeyError, json.JSONDecodeError):
        return None
    return _record(name, content, facts) if facts["settings"] == settings.digest else None


def read_facts(folder: Location, shard: ShardRecord) -> "pa.Table":
    """Returns what the rows of one shard say of their episodes, without what they hold of each step.

    Raises:
        ManifestError: It is no Parquet file any more; its checksum, which takes all of it, is not looked at.
    """
    place = Folder(folder)
    with place.open(shard.file) as file:
        try:
            return pq.read_table(file, columns=[field.name for field in _FACTS])
        except (pa.ArrowInvalid, OSError) as error:
            raise ManifestError(
                f"{place}/{shard.file} is not readable ({error}); expected a shard of its manifest. If it was changed "
                f"or damaged, {MADE_AGAIN}"
            ) from error


def count_steps(folder: Location, shard: ShardRecord, split: Split, lowest: Rank | None = None) -> int:
    """Returns the steps of one shard that `read_table` would give."""
    facts = read_facts(folder, shard).to_pylist()
    return sum(row["length"] for row in facts if _is_asked_for(row, split, lowest))


def read_table(
    folder: Location,
    split: Split,
    columns: Sequence[str],
    shards: Sequence[ShardRecord] | None = None,
    lowest: Rank | None = None,
) -> EpisodeTable:
    """Returns the episodes of one split, in the order of the shards' rows.

    Args:
        folder: Of the shards.
        split: Which episodes.
        columns: What is read of each step; `returns_to_go` is made of the rewards.
        shards: Which files of its manifest; None takes all.
        lowest: The worst episode that is wanted; None takes all.

    Raises:
        ManifestError: No manifest, a missing shard, one whose checksum fails, or shards without such a column.
    """
    manifest, place = read_manifest(folder), Folder(folder)
    stored = require_columns(manifest, columns, str(place))
    parts: dict[str, list[NDArray[Any]]] = {name: [_empty(manifest, name)] for name in stored}
    lengths: list[int] = []
    terminated: list[bool] = []
    totals: list[float] = []
    for shard in manifest.shards if shards is None else shards:
        rows = _read_rows(read_shard(place, shard), manifest, stored)
        for row in (row for row in rows if _is_asked_for(row, split, lowest)):
            # Rows of one long episode follow each other; each but the first starts above 0.
            if row["start"] == 0:
                lengths.append(0)
                terminated.append(row["terminated"])
                totals.append(row["total_reward"])
            lengths[-1] += row["length"]
            for name in stored:
                # Of the observations the last one is what the next row begins with, or what nobody acted on.
                parts[name].append(row[name][: row["length"]])
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    found = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    if RETURNS_TO_GO in columns:
        found[RETURNS_TO_GO] = returns_to_go(found[REWARDS], offsets)
    asked = {name: found[name] for name in columns}
    return EpisodeTable(asked, offsets, np.array(terminated, np.bool_), np.array(totals, np.float64))


def require_columns(manifest: Manifest, columns: Sequence[str], place: str) -> tuple[str, ...]:
    """Returns the stored columns that `columns` are read from.

    Raises:
        ManifestError: The shards at `place` lack one.
    """
    stored = tuple(dict.fromkeys(REWARDS if name == RETURNS_TO_GO else name for name in columns))
    missing = [name for name in stored if name not in manifest.columns]
    if missing:
        raise ManifestError(
            f"{place} holds {' and '.join(manifest.columns)} of each step, but no {' and no '.join(missing)}; expected "
            "them for this method. Set data.store to both and prepare again under another --name."
        )
    return stored


def step_bytes(manifest: Manifest, columns: Sequence[str]) -> int:
    """Returns the bytes of one step's `columns`, as a training holds them."""
    return sum(held(_empty(manifest, name)).dtype.itemsize * _width(manifest, name) for name in columns)


def _width(manifest: Manifest, column: str) -> int:
    """Returns the numbers of one step."""
    spaces = manifest.spaces
    widths = {TOKENS: manifest.layout.transition_dim, OBSERVATIONS: spaces.observation_dim, ACTIONS: spaces.action_dim}
    return widths.get(column, 1)


def _empty(manifest: Manifest, column: str) -> NDArray[Any]:
    dtype = manifest.discretizer.dtype if column == TOKENS else np.float32
    return np.empty((0,) if column in (REWARDS, RETURNS_TO_GO) else (0, _width(manifest, column)), dtype)


_Row = dict[str, Any]
"""One row of a shard by the names of its columns; what it holds of each step is an array of one row a step."""


def _rows(episode: Episode, split: Split, table: NDArray[np.float64], settings: ShardSettings) -> Iterator[_Row]:
    """Yields the rows of an episode: itself, or parts of a long one, which share the observation between them."""
    arrays = _values(episode, settings.treatment) if settings.store != "tokens" else {}
    if settings.store != "values":
        arrays[TOKENS] = settings.discretizer.encode(table)
    facts = {
        "source": episode.source,
        "episode_id": episode.episode_id,
        "split": split,
        "total_reward": float(episode.rewards.sum()),
        "terminated": episode.terminated,
        "truncated": episode.truncated,
    }
    for start in range(0, episode.num_steps, settings.steps_per_row):
        end = min(start + settings.steps_per_row, episode.num_steps)
        parts = {name: array[start : end + (name == OBSERVATIONS)] for name, array in arrays.items()}
        yield {**facts, "start": start, "length": end - start, **parts}


def _values(episode: Episode, treatment: RewardTreatment) -> dict[str, NDArray[Any]]:
    """Returns the episode in float32.

    Raises:
        DataError: A number is too large for it.
    """
    given = {
        OBSERVATIONS: episode.observations,
        ACTIONS: episode.actions,
        REWARDS: treatment.rewards(episode.rewards),
    }
    largest = np.finfo(np.float32).max
    for name, array in given.items():
        if np.abs(array).max(initial=0) > largest:
            raise DataError(
                f"Episode {episode.episode_id} of {episode.source} has {name} up to {np.abs(array).max():.3g}; "
                f"expected at most {largest:.3g}, the largest of float32. Set data.store to tokens, or scale the data."
            )
    return {name: array.astype(np.float32) for name, array in given.items()}


def _table(rows: Sequence[_Row], schema: "pa.Schema") -> "pa.Table":
    return pa.table({field.name: _column(rows, field) for field in schema}, schema=schema)


def _column(rows: Sequence[_Row], field: "pa.Field") -> Any:
    values = [row[field.name] for row in rows]
    if not pa.types.is_list(field.type):
        return values
    parts = [value.ravel() for value in values]
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, np.concatenate(parts), type=field.type)


def _is_asked_for(row: _Row, split: Split, lowest: Rank | None) -> bool:
    return row["split"] == split and (
        lowest is None or Rank(row["total_reward"], row["source"], row["episode_id"]) >= lowest
    )


def _read_rows(content: bytes, manifest: Manifest, columns: Sequence[str]) -> Iterator[_Row]:
    """Yields the rows with some of what they hold of each step; arrays are views of the file's content."""
    facts = [field.name for field in _FACTS]
    for batch in pq.read_table(pa.BufferReader(content), columns=[*facts, *columns]).to_batches():
        told = batch.select(facts).to_pylist()
        stored = {name: _lists(batch.column(name)) for name in columns}
        for number, row in enumerate(told):
            arrays = {
                name: values[number].reshape(-1, *_empty(manifest, name).shape[1:]) for name, values in stored.items()
            }
            yield {**row, **arrays}


def _lists(column: "pa.ListArray") -> Sequence[NDArray[Any]]:
    """Returns the array of each row, a view of the whole."""
    values = column.flatten().to_numpy(zero_copy_only=True)
    return np.split(values, np.cumsum(column.value_lengths().to_numpy())[:-1])


def _record(name: str, content: bytes, facts: Mapping[str, object]) -> ShardRecord:
    return ShardRecord.model_validate(
        {
            "file": name,
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
            "rows": facts["rows"],
            "steps": facts["steps"],
            "clipped": facts["clipped"],
        }
    )
