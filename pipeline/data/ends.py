"""Where episodes end in a run of steps that holds several."""

import numpy as np
from numpy.typing import NDArray


def episode_ends(marks: NDArray[np.bool_], limit: int | None) -> NDArray[np.int64]:
    """Returns (n,) the ends of the episodes: one behind each mark, each `limit` steps without one, and the last step.

    Args:
        marks: (T,) whether an episode ends with this step. No steps are one episode without steps.
        limit: Steps after which an episode ends that no mark has ended, at least 1; None ends none.

    Source: D4RL's `sequence_dataset`, which counts to the environment's limit where a file has no `timeouts`.
    """
    ends = np.flatnonzero(marks).astype(np.int64) + 1
    if not len(ends) or ends[-1] < len(marks):
        ends = np.append(ends, len(marks))
    if limit is None:
        return ends
    starts = np.concatenate([[0], ends[:-1]])
    cuts = [np.append(np.arange(start + limit, end, limit), end) for start, end in zip(starts, ends, strict=True)]
    return np.concatenate(cuts)


def episode_starts(ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns (n,) the first steps of the episodes that end there."""
    return np.concatenate([[0], ends[:-1]]).astype(np.int64)
