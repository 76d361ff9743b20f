from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from pydantic import ValidationError

from pipeline.errors import StorageError
from pipeline.evaluation.config import SweepConfig
from pipeline.evaluation.sweep import (
    chosen_experiment,
    listed_settings,
    pareto_front,
    read_table,
    setting_key,
    sweep_table,
    write_table,
)
from pipeline.methods.swept import Swept
from pipeline.planning.config import PlanningConfig
from pipeline.records import EpisodeResult

Make = Callable[..., EpisodeResult]

CONFIG = SweepConfig(space={"planning.beam_width": [1, 2, 3, 4]}, episodes=2)


def episodes(make: Make, returns: list[float], decision_ms: float) -> list[EpisodeResult]:
    return [make(i, value, decision_ms_median=decision_ms) for i, value in enumerate(returns)]


def entries(make: Make) -> list[tuple[dict[str, int], list[EpisodeResult]]]:
    """Four settings: fast and poor, slow and good, slower and worse than that, fast and stopped early."""
    return [
        ({"planning.beam_width": 1}, episodes(make, [1.0, 3.0], 10.0)),
        ({"planning.beam_width": 2}, episodes(make, [8.0, 10.0], 20.0)),
        ({"planning.beam_width": 3}, episodes(make, [5.0, 7.0], 30.0)),
        ({"planning.beam_width": 4}, episodes(make, [50.0], 15.0)),
    ]


def test_the_grid_is_every_combination() -> None:
    config = SweepConfig(space={"planning.beam_width": [32, 64], "planning.horizon": [5, 10]})
    assert [tuple(setting.values()) for setting in listed_settings(config, 0)] == [(32, 5), (32, 10), (64, 5), (64, 10)]


def test_random_settings_depend_on_seed_and_number_alone() -> None:
    space = {
        "planning.beam_width": {"low": 1, "high": 64, "log": True, "integer": True},
        "planning.temperature": {"low": 0.5, "high": 2.0},
        "planning.ranking": ["predicted_return", "log_likelihood"],
    }
    many = SweepConfig.model_validate({"space": space, "search": "random", "samples": 200})
    few = many.model_copy(update={"samples": 5})
    drawn = listed_settings(many, root_seed=7)
    assert drawn[:5] == listed_settings(few, root_seed=7) != listed_settings(few, root_seed=8)
    widths = [setting["planning.beam_width"] for setting in drawn]
    assert {type(width) for width in widths} == {int}
    assert min(widths) == 1
    assert 32 < max(widths) <= 64
    assert sum(width <= 8 for width in widths) == pytest.approx(100, abs=30)  # half of the logarithm
    assert all(0.5 <= setting["planning.temperature"] <= 2.0 for setting in drawn)
    assert {setting["planning.ranking"] for setting in drawn} == {"predicted_return", "log_likelihood"}


def test_a_random_setting_drawn_twice_is_tried_once() -> None:
    config = SweepConfig(space={"planning.horizon": [1, 2]}, search="random", samples=50)
    assert sorted(setting["planning.horizon"] for setting in listed_settings(config, 0)) == [1, 2]


def test_a_setting_has_one_name_whatever_the_order_of_its_values() -> None:
    key = setting_key({"planning.horizon": 5, "planning.beam_width": 32})
    assert key == setting_key({"planning.beam_width": 32, "planning.horizon": 5})
    assert key != setting_key({"planning.beam_width": 5, "planning.horizon": 32})


def test_the_best_full_setting_is_chosen_and_the_front_has_what_nothing_beats(make_result: Make) -> None:
    rows = sweep_table(entries(make_result), CONFIG)
    assert [row.mean_return for row in rows] == [2.0, 9.0, 6.0, 50.0]
    assert [row.pareto for row in rows] == [True, False, False, True]
    assert [row.chosen for row in rows] == [False, True, False, False]
    assert [row.stopped_early for row in rows] == [False, False, False, True]


def test_a_setting_over_the_time_limit_is_never_chosen(make_result: Make) -> None:
    rows = sweep_table(entries(make_result), CONFIG.model_copy(update={"max_decision_ms": 12.0}))
    assert [row.feasible for row in rows] == [True, False, False, False]
    assert [row.chosen for row in rows] == [True, False, False, False]


def test_nothing_is_chosen_where_nothing_is_fast_enough(make_result: Make) -> None:
    rows = sweep_table(entries(make_result), CONFIG.model_copy(update={"max_decision_ms": 1.0}))
    assert not any(row.chosen for row in rows)


def test_of_equally_good_settings_the_fastest_is_chosen(make_result: Make) -> None:
    times = {1: 30.0, 2: 10.0, 3: 20.0}
    equal = [({"planning.beam_width": i}, episodes(make_result, [200.0, 200.0], ms)) for i, ms in times.items()]
    assert [row.chosen for row in sweep_table(equal, CONFIG)] == [False, True, False]


def test_the_objective_decides(make_result: Make) -> None:
    two = [
        ({"planning.beam_width": 1}, episodes(make_result, [0.0, 0.0, 90.0], 1.0)),
        ({"planning.beam_width": 2}, episodes(make_result, [5.0, 5.0, 5.0], 1.0)),
    ]
    by = {kind: CONFIG.model_copy(update={"objective": kind}) for kind in ("mean_return", "median_return")}
    assert [row.chosen for row in sweep_table(two, by["mean_return"])] == [True, False]
    assert [row.chosen for row in sweep_table(two, by["median_return"])] == [False, True]


def test_of_two_equally_fast_settings_only_the_better_is_on_the_front(make_result: Make) -> None:
    rows = sweep_table(
        [
            ({"planning.beam_width": 1}, episodes(make_result, [1.0, 1.0], 5.0)),
            ({"planning.beam_width": 2}, episodes(make_result, [2.0, 2.0], 5.0)),
        ],
        CONFIG,
    )
    assert [row.settings["planning.beam_width"] for row in pareto_front(rows, CONFIG)] == [2]


def test_the_table_comes_back_as_it_was_and_pandas_reads_it(tmp_path: Path, make_result: Make) -> None:
    rows = sweep_table(entries(make_result), CONFIG)
    write_table(tmp_path, rows)
    assert read_table(tmp_path) == rows
    for frame in (pd.read_csv(tmp_path / "table.csv"), pd.read_parquet(tmp_path / "table.parquet")):
        assert list(frame["planning.beam_width"]) == [1, 2, 3, 4]
        assert list(frame["mean_return"]) == [2.0, 9.0, 6.0, 50.0]
        assert list(frame["interval_low"].isna()) == [False, False, False, True]


def test_a_missing_table_says_which_job_writes_it(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"table.json is not readable.*Run jobs/sweep.py first"):
        read_table(tmp_path)


def test_the_chosen_experiment_differs_in_name_planning_and_checkpoint_alone(make_result: Make) -> None:
    row = sweep_table(entries(make_result), CONFIG)[1]
    before = {
        "name": "run",
        "seed": 3,
        "planning": {"beam_width": 99, "horizon": 4},
        "evaluation": {"episodes": 20, "checkpoint": None},
    }
    swept = Swept("planning", PlanningConfig())
    assert chosen_experiment(before, swept, row, "/runs/run/checkpoints/step-1") == {
        "name": "run-chosen",
        "seed": 3,
        "planning": {"beam_width": 2, "horizon": 4},
        "evaluation": {"episodes": 20, "checkpoint": "/runs/run/checkpoints/step-1"},
    }
    renamed = Swept("planning", PlanningConfig(), stored_as={"beam_width": "beams"})
    chosen = chosen_experiment(before, renamed, row, "/runs/run/checkpoints/step-1")
    assert chosen["planning"] == {"beam_width": 99, "horizon": 4, "beams": 2}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"space": {"planning.horizon": {"low": 1, "high": 4}}}, r"has a range for planning.horizon and .* 'grid'"),
        (
            {"space": {"planning.temperature": {"low": 0, "high": 4, "log": True}}, "search": "random"},
            r"a range from 0 to 4; expected 0 < low < high",
        ),
        (
            {"space": {"planning.temperature": {"low": 4, "high": 4}}, "search": "random"},
            r"a range from 4 to 4; expected low < high",
        ),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SweepConfig.model_validate(values)
