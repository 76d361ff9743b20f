import math

import pytest

from pipeline.training.divergence import divergence


@pytest.mark.parametrize(
    ("loss", "norm", "recent", "factor", "reason"),
    [
        (1.0, 1.0, [1.0, 1.0, 1.0], 3.0, ""),
        (math.nan, 1.0, [], 3.0, "the loss is nan"),
        (math.inf, 1.0, [], None, "the loss is inf"),
        (1.0, math.nan, [], None, "the gradient norm is nan"),
        (None, 1.0, [1.0, 1.0, 1.0], 3.0, ""),
        (3.1, 1.0, [1.0, 9.0, 1.0], 3.0, "the loss rose to 3.1, more than 3 times its recent 1"),
        (4e-7, 1.0, [1e-7, 1e-7, 1e-7], 3.0, ""),  # a model of deterministic data
        (0.04, 1.0, [1e-7, 1e-7, 1e-7], 3.0, ""),
        (0.06, 1.0, [1e-7] * 3, 3.0, "the loss rose to 0.06, more than 3 times its recent 1e-07"),
        (2.9, 1.0, [1.0, 9.0, 1.0], 3.0, ""),
        (3.1, 1.0, [1.0, 9.0, 1.0], None, ""),
        (3.1, 1.0, [1.0, 1.0], 3.0, ""),  # too few to know what is usual
        (3.1, 1.0, [1.0] * 5 + [4.0] * 10, 3.0, ""),  # old lines do not count
    ],
)
def test_divergence(loss: float | None, norm: float, recent: list[float], factor: float | None, reason: str) -> None:
    assert divergence(loss, norm, recent, factor) == reason
