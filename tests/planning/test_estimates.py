import pytest
import torch

from pipeline.planning.config import PlanningConfig
from pipeline.planning.estimates import estimates

LOGITS = torch.log(torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64))
CENTERS = torch.tensor([-1.0, 2.0, 5.0], dtype=torch.float64)


def test_the_mean_leaves_the_stop_token_out_and_does_not_renormalise():
    assert float(estimates(LOGITS, CENTERS, PlanningConfig())) == pytest.approx(-0.1 + 0.4 + 1.5)


@pytest.mark.parametrize(("percentile", "center"), [(0.0, -1.0), (0.05, -1.0), (0.25, 2.0), (0.5, 5.0), (0.9, 5.0)])
def test_a_percentile_is_the_center_of_the_first_bin_that_reaches_it(percentile, center):
    config = PlanningConfig(value_estimate="percentile", value_percentile=percentile)
    assert float(estimates(LOGITS, CENTERS, config)) == center


def test_estimates_ignore_the_temperature():
    assert float(estimates(LOGITS, CENTERS, PlanningConfig(temperature=9.0))) == pytest.approx(1.8)
