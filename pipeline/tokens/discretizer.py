"""Numbers to tokens and back, each dimension of a transition with its own bins.

It deliberately knows nothing of how the edges were found (`pipeline.tokens.fitting`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import DataError
from pipeline.tokens.layout import TransitionLayout

Tokens = NDArray[np.unsignedinteger[Any]]


class Discretizer:
    """Bin edges and bin centres of every dimension; never changes.

    A value v has token i where `edges[i] <= v < edges[i + 1]`; values outside the edges go to the first or the last
    bin. A token stands for its bin's centre.

    Shape letters: D transition_dim, N num_bins.

    Args:
        layout: Names the dimensions and says how many bins each one uses.
        edges: (D, N + 1) in each row's order from small to large. A dimension of fewer bins repeats its last edge.
        centers: (D, N), what tokens decode to; None takes the middle of each bin. A dimension of fewer bins repeats its
            last centre.

    Raises:
        ValueError: Wrong shapes, edges that are not finite or decrease, a centre outside its bin.

    Attributes:
        layout: As given.
        edges: As given, read-only.
        centers: (D, N) float64, finite everywhere, read-only.
    """

    def __init__(self, layout: TransitionLayout, edges: ArrayLike, centers: ArrayLike | None = None) -> None:
        self.layout = layout
        self.edges = np.array(edges, dtype=np.float64)
        expected = (layout.transition_dim, layout.num_bins + 1)
        if self.edges.shape != expected:
            raise ValueError(f"edges has the shape {self.edges.shape}; expected {expected}: dimensions, bins + 1.")
        if not np.isfinite(self.edges).all() or (np.diff(self.edges, axis=1) < 0).any():
            raise ValueError("edges holds NaN, an infinity, or a decrease; expected finite, sorted edges.")
        # a / 2 + b / 2 and not (a + b) / 2, which overflows for the widest bins.
        middles = self.edges[:, :-1] / 2 + self.edges[:, 1:] / 2
        self.centers = middles if centers is None else np.array(centers, dtype=np.float64)
        if self.centers.shape != middles.shape or not np.isfinite(self.centers).all():
            raise ValueError(f"centers has the shape {self.centers.shape}; expected {middles.shape}, all finite.")
        for row, count in enumerate(layout.bins):
            self.centers[row, count:] = self.centers[row, count - 1]
        self.edges.flags.writeable = False
        self.centers.flags.writeable = False
        # The outer edges bound nothing: whatever lies beyond them belongs to the outer bins.
        self._borders = [self.edges[row, 1:count] for row, count in enumerate(layout.bins)]

    @classmethod
    def from_rows(
        cls,
        layout: TransitionLayout,
        edges: Sequence[NDArray[np.floating[Any]]],
        centers: Sequence[NDArray[np.floating[Any]]],
    ) -> "Discretizer":
        """Returns the discretizer of rows of `layout.bins[d] + 1` edges and `layout.bins[d]` centres."""
        widths = (layout.num_bins + 1, layout.num_bins)
        padded = [
            np.stack([np.pad(row, (0, width - len(row)), mode="edge") for row in rows])
            for rows, width in zip((edges, centers), widths, strict=True)
        ]
        return cls(layout, *padded)

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        """The smallest unsigned integer that holds every token and the stop token."""
        return np.uint8 if self.layout.stop_token <= 255 else np.uint16

    def encode(self, values: ArrayLike) -> Tokens:
        """Returns the tokens (..., D) of whole transitions (..., D).

        Raises:
            DataError: A value is NaN.
        """
        return self.encode_columns(values, slice(0, self.layout.transition_dim))

    def decode(self, tokens: ArrayLike) -> NDArray[np.float64]:
        """Returns the centres (..., D) of whole transitions' tokens (..., D)."""
        return self.decode_columns(tokens, slice(0, self.layout.transition_dim))

    def encode_columns(self, values: ArrayLike, columns: slice) -> Tokens:
        """Returns the tokens (..., C) of `values` (..., C), the dimensions `columns` of a transition.

        Args:
            values: For example observations alone, with `columns=layout.observation`.
            columns: Which dimensions of a transition they are.

        Raises:
            DataError: A value is NaN.
        """
        array, rows = np.asarray(values, dtype=np.float64), self._rows(columns, np.shape(values))
        if np.isnan(array).any():
            kinds = sorted({self.layout.kind(row) for row in rows})
            raise DataError(f"a value of {' and '.join(kinds)} is NaN; expected numbers. NaN has no token.")
        tokens = np.empty(array.shape, dtype=self.dtype)
        for place, row in enumerate(rows):
            # side="right": a value on an edge belongs to the bin above it.
            tokens[..., place] = np.searchsorted(self._borders[row], array[..., place], side="right")
        return tokens

    def decode_columns(self, tokens: ArrayLike, columns: slice) -> NDArray[np.float64]:
        """Returns the centres (..., C) of `tokens` (..., C), the dimensions `columns` of a transition.

        Raises:
            ValueError: A token is none of 0 to N - 1; the stop token stands for no number.
        """
        array = np.asarray(tokens, dtype=np.int64)
        rows = self._rows(columns, array.shape)
        if array.size and not 0 <= array.min() <= array.max() < self.layout.num_bins:
            raise ValueError(
                f"tokens holds {array.min()} to {array.max()}; expected 0 to {self.layout.num_bins - 1}. "
                "The stop token stands for no number."
            )
        return np.asarray(self.centers[np.asarray(rows), array])

    def clipped(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """Returns (D,) how many of `values` (S, D) lie outside the outer edges of their dimension."""
        last = self.edges[:, -1]
        return np.asarray(((values < self.edges[:, 0]) | (values > last)).sum(axis=0), dtype=np.int64)

    def _rows(self, columns: slice, shape: tuple[int, ...]) -> range:
        rows = range(*columns.indices(self.layout.transition_dim))
        if not shape or shape[-1] != len(rows):
            raise ValueError(
                f"the last axis of {shape} holds other numbers than dimensions {columns}; expected {len(rows)}."
            )
        return rows
