"""Prepare in one process and plain numpy, as one would write it in an afternoon: whole data set in memory, no Ray.

The oracle of the tests and of the benchmark. It shares the Parquet columns with the pipeline, and nothing else.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray


@dataclass(frozen=True)
class ReferenceTokens:
    """What the reference made.

    Attributes:
        tokens: (S, D), the steps of all episodes in order of their ids.
        lengths: (n,) steps of each episode.
        edges: One array per column.
    """

    tokens: NDArray[np.unsignedinteger[Any]]
    lengths: NDArray[np.int64]
    edges: list[NDArray[np.float64]]


def reference_prepare(hdf5: Path, output: Path | None, num_bins: int, discount: float) -> ReferenceTokens:
    """Reads a Minari HDF5 file of flat observations and actions, and returns (and writes) its tokens.

    Args:
        hdf5: Minari's `main_data.hdf5`.
        output: Parquet file to write; None writes none.
        num_bins: N, quantile bins of each column.
        discount: g of the value to go.
    """
    tables = []
    with h5py.File(hdf5) as file:
        for episode in range(len(file)):
            group = file[f"episode_{episode}"]
            rewards = group["rewards"][:].astype(np.float64)
            columns = [group["observations"][:-1], group["actions"][:], rewards, reference_values(rewards, discount)]
            tables.append(np.column_stack([np.asarray(column, dtype=np.float64) for column in columns]))
    values = np.concatenate(tables)
    edges = [reference_edges(values[:, column], num_bins) for column in range(values.shape[1])]
    tokens = np.empty(values.shape, np.uint8 if num_bins <= 255 else np.uint16)
    for column, borders in enumerate(edges):
        tokens[:, column] = np.digitize(values[:, column], borders[1:-1])
    lengths = np.array([len(table) for table in tables])
    if output is not None:
        offsets = np.concatenate([[0], np.cumsum(lengths * values.shape[1])]).astype(np.int32)
        pq.write_table(
            pa.table({"tokens": pa.ListArray.from_arrays(offsets, tokens.ravel())}), output, compression="zstd"
        )
    return ReferenceTokens(tokens, lengths, edges)


def reference_values(rewards: NDArray[np.float64], discount: float) -> NDArray[np.float64]:
    """Returns (T,) the discounted sums of the rewards after each step, by the recursion, step by step."""
    values = np.zeros(len(rewards))
    following = 0.0
    for step in range(len(rewards) - 2, -1, -1):
        following = rewards[step + 1] + discount * following
        values[step] = following
    return values


def reference_edges(values: NDArray[np.float64], num_bins: int) -> NDArray[np.float64]:
    """Returns the bin edges of one column by the rules of `pipeline.tokens.fitting.quantile_bins`, in their words."""
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= num_bins:
        middles = [a / 2 + b / 2 if a / 2 + b / 2 > a else b for a, b in pairwise(distinct)]
        return np.array([distinct[0], *middles, distinct[-1]])
    own = [value for value, count in zip(distinct, counts, strict=True) if count * num_bins > 2 * len(values)]
    rest = values[~np.isin(values, own)]
    edges = set(np.quantile(rest, np.linspace(0, 1, num_bins - 2 * len(own) + 1)))
    edges |= set(own) | {np.nextafter(value, np.inf) for value in own}
    return np.array(sorted(edges))
