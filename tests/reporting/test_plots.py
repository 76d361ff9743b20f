import math
import re

import numpy as np
import pytest

from pipeline.data.statistics import ReturnStatistics
from pipeline.reporting.figures import Drawing
from pipeline.reporting.methods import colours
from pipeline.reporting.plots import (
    decision_times,
    measured_parts,
    measures_by_name,
    predicted_returns,
    returns_by_method,
    returns_by_source,
    total_loss,
)
from pipeline.reporting.table import ResultRow
from tests.reporting.made_run import metrics_at, result

COLOUR = colours(())
RANDOM = ResultRow("random", 2.0, (1.0, 3.0), 3, 0.2, None, None)
DATA = ResultRow("data", 5.0, None, 10, None, None, None)


def texts(drawing: Drawing) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", drawing.svg)


def marks(drawing: Drawing, colour: str) -> list[tuple[float, float]]:
    """Places of the markers of one colour, in the figure's units."""
    found = re.findall(rf'<use [^>]*x="([\d.]+)" y="([\d.]+)" style="fill: {colour}', drawing.svg)
    return [(float(x), float(y)) for x, y in found]


def source(name: str, returns: list[float]) -> ReturnStatistics:
    ends = np.ones(len(returns), dtype=bool)
    return ReturnStatistics.of(name, np.array(returns), np.ones(len(returns), dtype=np.int64), ends, ~ends, dropped=0)


def test_each_source_has_a_panel_of_its_own() -> None:
    drawing = returns_by_source([source("own/a-v0", [1, 2, 3]), source("own/b-v0", [4])], [DATA, RANDOM])
    assert [text for text in texts(drawing) if text.startswith("own/")] == ["own/a-v0", "own/b-v0"]
    assert drawing.svg.count(f"stroke: {COLOUR['random']}") == 3, "a line in each panel, one in the legend"


@pytest.mark.parametrize("name", ["own/$a$-v0", r"own/$\\frac$", "own/cost $5"])
def test_a_dollar_in_a_name_is_a_dollar(name: str) -> None:
    assert name in texts(returns_by_source([source(name, [1, 2])], []))


def test_each_ended_episode_is_a_dot_and_the_mean_lies_among_them() -> None:
    episodes = [*(result("random", i, r) for i, r in enumerate((1.0, 2.0, 3.0))), result("random", 3, 9.0, error="x")]
    drawing = returns_by_method({"random": episodes}, [DATA, RANDOM])
    places = marks(drawing, COLOUR["random"])
    dots, mean = places[:3], places[3]
    assert len(places) == 4
    assert mean[0] == dots[1][0], "the diamond of the mean, 2, stands over the dot of the return 2"
    assert dots[0][0] < dots[1][0] < dots[2][0]


def test_equal_returns_do_not_hide_each_other() -> None:
    drawing = returns_by_method({"random": [result("random", i, 2.0) for i in range(20)]}, [RANDOM])
    heights = {y for _, y in marks(drawing, COLOUR["random"])[:20]}
    assert len(heights) == 20


def test_decision_times_are_the_median_and_the_slowest_of_the_ended_episodes() -> None:
    times = [(1.0, 5.0), (2.0, 90.0), (3.0, 6.0), (math.nan, math.nan)]
    episodes = [
        result("random", i, 1.0, decision_ms_median=m, decision_ms_p99=s, error="" if m == m else "died")
        for i, (m, s) in enumerate(times)
    ]
    drawing = decision_times({"random": episodes}, ["random"])
    assert "Random policy 2 ms" in drawing.svg
    assert "2" in texts(drawing)
    (median, _), (slowest, _) = marks(drawing, COLOUR["random"])[0], marks(drawing, COLOUR["random"])[-1]
    assert median < slowest


def test_episodes_without_a_prediction_are_not_drawn() -> None:
    episodes = [result("random", 0, 4.0), result("random", 1, 5.0, predicted_return=math.nan)]
    drawing = predicted_returns({"random": episodes}, ["random"])
    assert len(marks(drawing, COLOUR["random"])) == 2, "one dot, and one in the legend"


def test_epochs_without_held_out_episodes_leave_the_training_curve() -> None:
    lines = [line for step in range(10, 60, 10) for line in metrics_at(step)]
    steps = [line for line in lines if line["kind"] == "step"]
    epochs = [{**line, "validation_loss": None} for line in lines if line["kind"] == "epoch"]
    drawing = total_loss(steps, epochs, "weighted nats per token")
    assert "training" in texts(drawing)
    assert "validation" not in texts(drawing)
    assert drawing.caption == ""
    assert "weighted nats per token" in texts(drawing)


@pytest.mark.parametrize("parts", [["action"], ["action", "reward"], ["a", "b_c", "d", "e", "f"]])
def test_each_measure_has_a_panel_and_the_lowest_ones_tell_the_tokens(parts: list[str]) -> None:
    steps = [
        {"kind": "step", "tokens": 10**6 * i, "loss": 8.0, **{f"loss_{p}": 7 + i / 10 for p in parts}}
        for i in (1, 2, 3)
    ]
    epochs = [{**line, "kind": "epoch", **{f"validation_loss_{p}": 7.5 for p in parts}} for line in steps[2:]]
    assert measured_parts([*steps, *epochs], "loss") == parts
    drawing = measures_by_name(steps, epochs, "loss", "nats per token")
    shown = texts(drawing)
    assert [text for text in shown if text in {"a", "b c", "d", "e", "f", "action", "reward"}] == [
        part.replace("_", " ") for part in parts
    ]
    assert shown.count("nats per token") == math.ceil(len(parts) / 2)
    assert shown.count("tokens seen (millions)") == min(2, len(parts))
    assert sum(text in ("3.0", "3.00") for text in shown) == min(2, len(parts)), (
        "the lowest panel of each column has the numbers of its axis"
    )
    assert (shown.count("training"), shown.count("validation")) == (1, 1)


def test_a_loss_without_parts_has_no_panels() -> None:
    lines = [{"kind": "step", "tokens": 10, "loss": 1.0, "validation_loss": 2.0, "learning_rate": 0.1}]
    assert measured_parts(lines, "loss") == []
