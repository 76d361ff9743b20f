"""What prepare reads: data sets of episodes, each behind the same small interface."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.data.spaces import Spaces
from pipeline.records import Episode


@dataclass(frozen=True)
class Listing:
    """The episodes of a source, in the order in which they are taken.

    Attributes:
        ids: (n,) int64, no two alike.
        lengths: (n,) int64, their steps.
        divided: Recorded episodes that are several here, because they have ends in their middle.
    """

    ids: NDArray[np.int64]
    lengths: NDArray[np.int64]
    divided: int = 0

    @classmethod
    def numbered(cls, lengths: NDArray[np.int64]) -> "Listing":
        """Returns episodes of `lengths` with the ids 0 to n - 1."""
        return cls(np.arange(len(lengths), dtype=np.int64), lengths)


class Source(Protocol):
    """A data set of episodes.

    A source is a recipe: small, picklable, holding no open file, so that it can be sent to a worker which reads its own
    range of episodes.

    Attributes:
        name: Names it in errors, the manifest and the report.
        spaces: How its observations and actions become columns.
        environment: Gymnasium id, max_episode_steps and kwargs it was collected in, None if unknown.
        reference_scores: Returns of a random and an expert policy, None if it names none.
    """

    @property
    def name(self) -> str:
        """Names it."""

    @property
    def spaces(self) -> Spaces:
        """Its columns."""

    @property
    def environment(self) -> dict[str, Any] | None:
        """What it was collected in."""

    @property
    def reference_scores(self) -> tuple[float, float] | None:
        """Random and expert return."""

    def listing(self) -> Listing:
        """Returns its episodes; may have to look into each, so it is asked once for a preparation."""

    def fingerprint(self) -> str:
        """Returns a sha256 that changes when the data set is replaced by another one."""

    def read(self, ids: Sequence[int]) -> Iterator[Episode]:
        """Yields the episodes `ids`, flattened, in the order given, one in memory at a time."""
