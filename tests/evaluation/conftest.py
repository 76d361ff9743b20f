"""What the tests of evaluation share: results made by hand."""

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.records import EpisodeResult


def result(episode: int, total_reward: float, **changes: Any) -> EpisodeResult:
    values: dict[str, Any] = {
        "method": "trajectory_transformer",
        "episode": episode,
        "seed": 1000 + episode,
        "total_reward": total_reward,
        "length": 10,
        "terminated": True,
        "truncated": False,
        "success": None,
        "predicted_return": 1.5,
        "decision_ms_median": 20.0,
        "decision_ms_p99": 30.0,
        "batch_size": 4,
        "attempts": 1,
        "host": "here",
        "discounted_return": 1.25,
    }
    return EpisodeResult(**{**values, **changes})


@pytest.fixture
def make_result() -> Callable[..., EpisodeResult]:
    return result
