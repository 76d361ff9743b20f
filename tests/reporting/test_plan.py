import numpy as np

from pipeline.evaluation.plan_trace import PlanTrace
from pipeline.reporting.plan import plan_plot


def test_the_plot_shows_the_dimensions_that_moved_most() -> None:
    steps = np.arange(4.0)[:, None]
    actual = steps * np.arange(8.0)  # dimension i moves by 3 i
    trace = PlanTrace(5, actual[:3], np.zeros(3), actual, np.zeros(3))
    deviations = np.array([1.0, 1, 1, 1, 1, 1, 1, 100, 1])
    svg = plan_plot(trace, [f"dimension {i}" for i in range(8)], deviations.tolist()).svg
    assert [i for i in range(8) if f">dimension {i}<" in svg] == [2, 3, 4, 5, 6]
    assert ">reward<" in svg
