import io

import pytest
from rich.console import Console

from pipeline.reporting.table import NOTHING, decimals, print_summary, result_cells, result_rows

SUMMARY = {
    "data": {"mean_return": 22.34, "episodes": 900, "normalized_score": None},
    "methods": {
        "trajectory_transformer": {
            "mean_return": 200.0,
            "interval": [199.5, 200.0],
            "episodes": 20,
            "decision_ms": 31.27,
            "normalized_score": None,
            "success_rate": None,
        },
        "random": {"mean_return": 5.21, "interval": None, "episodes": 1, "decision_ms": 0.02},
    },
}


def printed(summary: dict, width: int = 80) -> list[str]:
    stream = io.StringIO()
    print_summary(summary, Console(file=stream, width=width))
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_the_table_has_the_data_first_and_the_planner_last() -> None:
    assert [row.method for row in result_rows(SUMMARY)] == ["data", "random", "trajectory_transformer"]


def test_the_printed_table_has_every_number() -> None:
    lines = printed(SUMMARY)
    assert lines[0].split() == ["Mean", "95", "%", "Decision"]
    assert lines[1].split() == ["return", "interval", "Episodes", "ms"]
    assert lines[2].split() == ["Behaviour", "data", "22.3", NOTHING, "900", NOTHING]
    assert lines[3].split() == ["Random", "policy", "5.2", NOTHING, "1", "0.0"]
    assert lines[4].split() == ["Trajectory", "Transformer", "200.0", "199.5", "to", "200.0", "20", "31.3"]


def test_a_table_with_every_column_fits_80_columns() -> None:
    entry = {
        "mean_return": -12345.6,
        "interval": [-12400.1, -12300.2],
        "episodes": 1000,
        "decision_ms": 2200.0,
        "normalized_score": 105.3,
        "success_rate": 0.93,
    }
    lines = printed({"data": SUMMARY["data"], "methods": {"trajectory_transformer": entry}})
    assert len(lines) == 4
    assert max(map(len, lines)) <= 80
    assert lines[3].split() == [
        *("Trajectory", "Transformer", "-12346", "-12400", "to", "-12300", "105.3", "93", "%", "1000", "2200.0")
    ]


def test_columns_that_no_row_fills_are_left_out() -> None:
    header, rows = result_cells(result_rows(SUMMARY))
    assert header == ["", "Mean return", "95 % interval", "Episodes", "Decision ms"]
    assert {len(row) for row in rows} == {5}


def test_a_row_without_an_entry_is_called_by_its_own_name() -> None:
    summary = {"methods": {"crystal_ball": SUMMARY["methods"]["random"], "random": SUMMARY["methods"]["random"]}}
    _, rows = result_cells(result_rows(summary))
    assert [row[0] for row in rows] == ["Random policy", "Crystal ball"]


@pytest.mark.parametrize(
    ("values", "expected"), [([0.01, -0.5], 3), ([5.0], 2), ([-14.0, 3], 1), ([12135.0], 0), ([], 3)]
)
def test_decimals_follow_the_largest_number(values: list[float], expected: int) -> None:
    assert decimals(values) == expected


def test_the_reference_of_the_score_is_named() -> None:
    lines = printed({**SUMMARY, "reference": {"name": "D4RL", "random": -20.272305, "expert": 3234.3}})
    assert lines[-1] == "Score by D4RL: 0 is a return of -20.2723, 100 of 3234.3."
