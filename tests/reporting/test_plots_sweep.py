import re
from typing import Any

from pipeline.evaluation.config import SweepConfig
from pipeline.evaluation.sweep import SweepRow, sweep_table
from pipeline.reporting.figures import Drawing
from pipeline.reporting.plots_sweep import heat_map_settings, pareto_plot, return_heat_map, time_heat_map
from tests.reporting.made_run import result

BEAM, HORIZON, EVERY = "planning.beam_width", "planning.horizon", "planning.plan_every"


def table(tried: list[tuple[dict[str, Any], float, float]]) -> list[SweepRow]:
    """Rows of (setting, return, decision milliseconds)."""
    entries = [
        (setting, [result("sweep", i, mean, decision_ms_median=ms) for i in range(2)]) for setting, mean, ms in tried
    ]
    return sweep_table(entries, SweepConfig(episodes=2))


def texts(drawing: Drawing) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", drawing.svg)


SQUARE = table(
    [
        ({BEAM: 8, HORIZON: 5}, 11.0, 1.0),
        ({BEAM: 8, HORIZON: 10}, 12.0, 2.0),
        ({BEAM: 16, HORIZON: 5}, 13.0, 4.0),
    ]
)


def test_the_return_map_has_every_return_and_says_what_was_not_run() -> None:
    assert sorted(texts(return_heat_map(SQUARE, (BEAM, HORIZON)))) == sorted(
        [*("8", "16", "beam_width", "5", "10", "horizon"), *("11.0", "12.0", "13.0", "not run")]
    )


def test_the_time_map_has_every_decision_time() -> None:
    assert {"1.00", "2.00", "4.00"} <= set(texts(time_heat_map(SQUARE, (BEAM, HORIZON))))


def test_the_largest_value_is_on_the_darkest_colour_and_the_smallest_on_the_lightest() -> None:
    svg = return_heat_map(SQUARE, (BEAM, HORIZON)).svg
    fills = re.findall(r"fill: (#[0-9a-f]{6}); stroke: var\(--paper\)", svg)
    assert fills[0] == "#eef2fb"
    assert fills[1] == "#3f6fd8"


def test_of_further_settings_the_one_with_the_best_return_stands_in_both_maps() -> None:
    rows = table(
        [
            ({BEAM: 8, HORIZON: 5, EVERY: 1}, 11.0, 1.0),
            ({BEAM: 8, HORIZON: 5, EVERY: 2}, 19.0, 9.0),
            ({BEAM: 16, HORIZON: 10, EVERY: 1}, 12.0, 2.0),
        ]
    )
    assert "19.0" in texts(return_heat_map(rows, (BEAM, HORIZON)))
    assert "11.0" not in texts(return_heat_map(rows, (BEAM, HORIZON)))
    assert "9.00" in texts(time_heat_map(rows, (BEAM, HORIZON)))
    assert f"the value of {EVERY} with the best return" in return_heat_map(rows, (BEAM, HORIZON)).caption


def test_the_two_settings_with_the_most_values_span_the_map() -> None:
    tried = [({BEAM: beam, HORIZON: 5, EVERY: every}, 1.0, 1.0) for beam in (1, 2) for every in (1, 2, 3)]
    assert heat_map_settings(table(tried)) == (EVERY, BEAM)


def test_one_setting_alone_or_a_range_of_many_values_has_no_map() -> None:
    assert heat_map_settings(table([({BEAM: beam, HORIZON: 5}, 1.0, 1.0) for beam in (1, 2)])) is None
    many = [({"planning.temperature": i / 100, BEAM: 1 + i % 2}, 1.0, 1.0) for i in range(1, 30)]
    assert heat_map_settings(table(many)) is None


def test_values_are_in_the_order_of_numbers_and_null_comes_last() -> None:
    rows = table([({"planning.k_act": k, BEAM: b}, 1.0, 1.0) for k in (None, 40, 9) for b in (1, 2)])
    ticks = texts(return_heat_map(rows, ("planning.k_act", BEAM)))
    assert ticks[:3] == ["9", "40", "None"]


def test_the_front_is_labelled_by_its_settings() -> None:
    drawing = pareto_plot(SQUARE)
    assert {"8, 5", "8, 10", "16, 5"} <= set(texts(drawing))
    assert "Labels: beam_width, horizon." in drawing.caption
