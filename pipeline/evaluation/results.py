"""Episode results on disk: a folder of Parquet files, one for each episode.

The file's name is the episode's index and it appears whole or not at all. So an episode is there exactly once however
often a driver was killed, and a rerun sees what is missing by listing the folder. The folder is one dataset to pandas,
DuckDB or pyarrow.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from pipeline.configuration import claimed_identity, write_atomically
from pipeline.errors import StorageError
from pipeline.records import EpisodeResult
from pipeline.stored import digest, read_bytes

SCHEMA = pa.schema(
    [
        ("method", pa.string()),
        ("episode", pa.int64()),
        ("seed", pa.int64()),
        ("total_reward", pa.float64()),
        ("length", pa.int64()),
        ("terminated", pa.bool_()),
        ("truncated", pa.bool_()),
        ("success", pa.bool_()),
        ("predicted_return", pa.float64()),
        ("decision_ms_median", pa.float64()),
        ("decision_ms_p99", pa.float64()),
        ("batch_size", pa.int64()),
        ("attempts", pa.int64()),
        ("host", pa.string()),
        ("error", pa.string()),
        ("discounted_return", pa.float64()),
        ("computed_by", pa.string()),
    ]
)
"""Columns of the results, which are the fields of EpisodeResult."""

_SEAL = b"sha256"
_COMPARED = ("environment", "seed", "model")
"""Parts of a row's identity that are the same for all rows of one table."""


def processors(results: Iterable[EpisodeResult]) -> set[str]:
    """Returns the kinds of processor that computed the episodes, as far as they are known."""
    return {result.computed_by for result in results if result.computed_by}


class EpisodeStore:
    """The episodes of one row with one configuration.

    Args:
        folder: Where the Parquet files lie; made with the first episode.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, results: Iterable[EpisodeResult]) -> None:
        """Writes episodes that ended; one that is there already stays as it is.

        Played again it gives the same, but for the time that it took: filming takes some of the cores that decide.
        """
        for result in results:
            path = self.folder / f"episode-{result.episode:06d}.parquet"
            if path.exists():
                continue
            write_atomically(path, _content(result))

    def missing(self, episodes: int) -> list[int]:
        """Returns which of the first `episodes` episodes are not there yet."""
        present = {path.name for path in self._files()}
        return [i for i in range(episodes) if f"episode-{i:06d}.parquet" not in present]

    def read(self, episodes: int | None = None) -> list[EpisodeResult]:
        """Returns the episodes in order of their index, the first `episodes` of them or all.

        Raises:
            StorageError: A file is no episode's, or is damaged.
        """
        results = sorted(map(_read, self._files()), key=lambda result: result.episode)
        return [result for result in results if episodes is None or result.episode < episodes]

    def stands_beside(self, identities: Iterable[Mapping[str, Any]], episodes: int) -> bool:
        """Returns whether this row's episodes can be compared with those of other rows.

        They have the same environment, root seed and, where both have one, model; where both are asked for a return,
        they act alike otherwise; and at least one of the first `episodes` ended.

        Args:
            identities: What the other rows' folders were claimed with.
            episodes: How many are compared.
        """
        own = claimed_identity(self.folder)
        if own is None or all(result.error for result in self.read(episodes)):
            return False
        shared = [(name, other) for other in identities for name in _COMPARED if name in own and name in other]
        return all(own[name] == other[name] for name, other in shared) and all(
            _acts_alike(own, other) for other in identities
        )

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("episode-*.parquet"))


def _content(result: EpisodeResult) -> bytes:
    """Returns the Parquet file of an episode; its metadata has a checksum of the row, however it is stored."""
    row = dataclasses.asdict(result)
    schema, sink = SCHEMA.with_metadata({_SEAL: digest(row)}), pa.BufferOutputStream()
    pa.parquet.write_table(pa.Table.from_pylist([row], schema), sink)
    return bytes(sink.getvalue().to_pybytes())


def _read(path: Path) -> EpisodeResult:
    try:
        table = pa.parquet.read_table(pa.BufferReader(read_bytes(path)))
        (stored,) = table.to_pylist()
        # Those from before there were all columns lack some.
        row = {name: stored.get(name) for name in SCHEMA.names}
        seal = (table.schema.metadata or {}).get(_SEAL)
        if seal is not None and seal.decode() != digest(row):
            raise ValueError("its checksum is not that of its content")
    except (pa.ArrowException, OSError, ValueError) as error:
        told = " ".join(str(error).split())
        raise StorageError(
            f"{path} is not readable ({told}); expected a Parquet file of one episode. Remove that file and run the "
            "same command again: only its episode is run."
        ) from error
    return EpisodeResult(**row)


def _acts_alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Returns whether rows that differ in nothing but the return asked for act alike otherwise; True for all others."""
    if not all("target_return" in row.get("acting", {}) for row in (one, other)):
        return True
    acting = [{**row["acting"], "target_return": None} for row in (one, other)]
    return bool(acting[0] == acting[1])
