"""That the mark `slow` is true, by the durations of a recorded run: `python -m pytest --record-durations`."""

import pytest

from tests.conftest import recorded_seconds

MAX_SECONDS = 10.0
"""Of a test without the mark `slow`: `make test` leaves the others out."""


def test_a_test_that_takes_longer_than_ten_seconds_is_marked_as_slow(request: pytest.FixtureRequest) -> None:
    seconds = recorded_seconds()
    unmarked = {
        item.nodeid: seconds[item.nodeid]
        for item in request.session.items
        if seconds.get(item.nodeid, 0.0) > MAX_SECONDS and item.get_closest_marker("slow") is None
    }
    assert not unmarked


def test_the_record_is_that_of_a_whole_run() -> None:
    assert max(recorded_seconds().values()) > MAX_SECONDS, "it has none of the slow tests"
