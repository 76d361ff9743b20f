"""What the tests of evaluation share: results made by hand."""

from collections.abc import Callable
from functools import partial

import pytest

from pipeline.records import EpisodeResult
from tests.reporting.made_run import result


@pytest.fixture
def make_result() -> Callable[..., EpisodeResult]:
    """Takes an episode's index and total reward, and what else shall differ."""
    return partial(result, "trajectory_transformer")
