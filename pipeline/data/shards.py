"""Token shards: Parquet files with one row per episode, readable by anything that reads Parquet.

The bytes of a shard depend on its episodes, the discretizer and pyarrow's version alone.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.data.manifest import ShardRecord, read_manifest, read_shard
from pipeline.data.storage import Folder, Location
from pipeline.data.transitions import transition_table
from pipeline.records import Episode
from pipeline.tokens.discretizer import Discretizer, Tokens
from pipeline.tokens.layout import TransitionLayout

Split = Literal["train", "validation"]


@dataclass(frozen=True)
class TokenEpisodes:
    """The tokens of many episodes, one behind the other.

    Attributes:
        layout: Which token is what.
        tokens: (S, D) uint8 or uint16, S steps of all episodes.
        offsets: (n + 1,) where each episode starts; episode i is `tokens[offsets[i]:offsets[i + 1]]`.
        terminated: (n,) the MDP itself ended after the episode's last step; False for a limit outside it.
    """

    layout: TransitionLayout
    tokens: Tokens
    offsets: NDArray[np.int64]
    terminated: NDArray[np.bool_]

    @property
    def num_episodes(self) -> int:
        """The number of episodes."""
        return len(self.offsets) - 1


@dataclass(frozen=True)
class ShardSettings:
    """What the content of a shard depends on beside its episodes.

    Attributes:
        discretizer: Makes the tokens.
        discount: g of the value to go.
        termination_penalty: Replaces the reward of a terminal last step; None keeps it.
        steps_per_row: Longer episodes are split into rows of this many steps.
        origin: Names the data that the episodes come from.
    """

    discretizer: Discretizer
    discount: float
    termination_penalty: float | None
    steps_per_row: int
    origin: str = ""

    @property
    def schema(self) -> "pa.Schema":
        """The columns of a shard."""
        token = pa.uint8() if self.discretizer.dtype is np.uint8 else pa.uint16()
        return pa.schema(
            [
                pa.field("source", pa.string(), nullable=False),
                pa.field("episode_id", pa.int64(), nullable=False),
                pa.field("start", pa.int64(), nullable=False),
                pa.field("length", pa.int32(), nullable=False),
                pa.field("split", pa.string(), nullable=False),
                pa.field("total_reward", pa.float64(), nullable=False),
                pa.field("terminated", pa.bool_(), nullable=False),
                pa.field("truncated", pa.bool_(), nullable=False),
                pa.field("tokens", pa.list_(pa.field("token", token, nullable=False)), nullable=False),
            ]
        )

    @property
    def digest(self) -> str:
        """sha256 of all settings; a shard carries it, so that none of other settings or data is taken for finished."""
        hasher = hashlib.sha256(
            repr((self.discount, self.termination_penalty, self.steps_per_row, self.origin)).encode()
        )
        hasher.update(repr(self.discretizer.layout).encode())
        hasher.update(self.discretizer.edges.tobytes())
        return hasher.hexdigest()


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
    with pq.ParquetWriter(sink, settings.schema, compression="zstd", compression_level=3) as writer:
        for episode, split in episodes:
            table = transition_table(episode, settings.discount, settings.termination_penalty)
            clipped += settings.discretizer.clipped(table)
            for row in _rows(episode, split, settings.discretizer.encode(table), settings.steps_per_row):
                pending.append(row)
                rows, steps, waiting = rows + 1, steps + row.length, waiting + row.length
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


def count_steps(folder: Location, shard: ShardRecord, split: Split) -> int:
    """Returns the steps of one split in one shard, without reading its tokens."""
    with Folder(folder).open(shard.file) as file:
        table = pq.read_table(file, columns=["split", "length"])
    return int(np.asarray(table["length"])[np.asarray(table["split"]) == split].sum())


def read_tokens(folder: Location, split: Split, shards: Sequence[ShardRecord] | None = None) -> TokenEpisodes:
    """Returns the tokens of one split, in the order of the shards' rows.

    Args:
        folder: Of the shards.
        split: Which episodes.
        shards: Which files of its manifest; None takes all.

    Raises:
        ManifestError: No manifest, a missing shard, or one whose checksum fails.
    """
    manifest, place = read_manifest(folder), Folder(folder)
    tokens: list[Tokens] = []
    lengths: list[int] = []
    endings: list[bool] = []
    for shard in manifest.shards if shards is None else shards:
        for start, terminated, array in _read_rows(read_shard(place, shard), split, manifest.layout.transition_dim):
            tokens.append(array)
            # Rows of one long episode follow each other; each but the first starts above 0.
            if start == 0:
                lengths.append(0)
                endings.append(terminated)
            lengths[-1] += len(array)
    empty = np.empty((0, manifest.layout.transition_dim), manifest.discretizer.dtype)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    return TokenEpisodes(manifest.layout, np.concatenate(tokens or [empty]), offsets, np.array(endings, np.bool_))


class _Row(NamedTuple):
    """One row of a shard, its fields named as the columns."""

    source: str
    episode_id: int
    start: int
    length: int
    split: Split
    total_reward: float
    terminated: bool
    truncated: bool
    tokens: Tokens


def _rows(episode: Episode, split: Split, tokens: Tokens, steps_per_row: int) -> Iterator[_Row]:
    total_reward = float(episode.rewards.sum())
    ends = episode.terminated, episode.truncated
    for start in range(0, len(tokens), steps_per_row):
        part = tokens[start : start + steps_per_row]
        yield _Row(episode.source, episode.episode_id, start, len(part), split, total_reward, *ends, part)


def _table(rows: Sequence[_Row], schema: "pa.Schema") -> "pa.Table":
    columns = {name: [getattr(row, name) for row in rows] for name in _Row._fields[:-1]}
    parts = [row.tokens.ravel() for row in rows]
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int32)
    lists = pa.ListArray.from_arrays(offsets, np.concatenate(parts), type=schema.field("tokens").type)
    return pa.table({**columns, "tokens": lists}, schema=schema)


def _read_rows(content: bytes, split: Split, transition_dim: int) -> Iterator[tuple[int, bool, Tokens]]:
    """Yields first step, whether the episode terminated, and tokens of each row of `split`."""
    table = pq.read_table(pa.BufferReader(content), columns=["start", "split", "terminated", "tokens"])
    for batch in table.to_batches():
        lists = batch.column("tokens")
        values = lists.flatten().to_numpy(zero_copy_only=True)
        ends = np.cumsum(lists.value_lengths().to_numpy())
        splits, starts = batch.column("split").to_pylist(), batch.column("start").to_pylist()
        terminated = batch.column("terminated").to_pylist()
        for row, end in enumerate(ends):
            if splits[row] == split:
                begin = ends[row - 1] if row else 0
                yield starts[row], terminated[row], values[begin:end].reshape(-1, transition_dim)


def _record(name: str, content: bytes, facts: dict[str, object]) -> ShardRecord:
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
