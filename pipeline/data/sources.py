"""What prepare reads: data sets of episodes, each behind the same small interface."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.data.spaces import Spaces
from pipeline.records import Episode


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

    def lengths(self) -> NDArray[np.int64]:
        """Returns (n,) the steps of its episodes, in the order of their ids."""

    def ids(self) -> NDArray[np.int64]:
        """Returns (n,) the ids of its episodes, in the order in which they are taken."""

    def fingerprint(self) -> str:
        """Returns a sha256 that changes when the data set is replaced by another one."""

    def read(self, ids: Sequence[int]) -> Iterator[Episode]:
        """Yields the episodes `ids`, flattened, in the order given, one in memory at a time."""
