import numpy as np
import pytest

from pipeline.data.ends import episode_ends, episode_starts


@pytest.mark.parametrize(
    ("marked", "limit", "ends"),
    [
        ([], None, [10]),
        ([9], None, [10]),
        ([3, 6], None, [4, 7, 10]),
        ([0, 1], None, [1, 2, 10]),
        ([], 4, [4, 8, 10]),
        ([], 5, [5, 10]),
        ([], 10, [10]),
        # The count begins anew behind a mark.
        ([2], 4, [3, 7, 10]),
        ([3], 4, [4, 8, 10]),
        ([3, 7, 9], 4, [4, 8, 10]),
    ],
)
def test_episodes_end_behind_marks_and_limits_and_the_last_step(
    marked: list[int], limit: int | None, ends: list[int]
) -> None:
    found = episode_ends(np.isin(np.arange(10), marked), limit)
    assert found.tolist() == ends
    assert episode_starts(found).tolist() == [0, *ends[:-1]]


@pytest.mark.parametrize("limit", [None, 3])
def test_no_steps_are_one_episode_without_steps(limit: int | None) -> None:
    assert episode_ends(np.zeros(0, np.bool_), limit).tolist() == [0]
