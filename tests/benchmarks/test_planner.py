import json
from datetime import datetime

import pytest
import torch

from pipeline.benchmarks import record
from pipeline.benchmarks.planner import SETTINGS, PlannerBenchmark, run
from pipeline.benchmarks.planner_cost import MachineRates, PlanCost, plan_cost, roofline_seconds
from pipeline.benchmarks.planner_sweep import fitted_law
from pipeline.errors import StorageError
from pipeline.models.config import ModelConfig
from pipeline.planning.config import PlanningConfig
from pipeline.provenance import commit, hardware
from pipeline.tokens.layout import TransitionLayout

REQUIRED = {
    "benchmark", "setting", "episodes", "device", "identical", "seconds_per_plan", "reference_seconds_per_plan",
    "ratio", "rows_per_second", "roofline_share", "peak_gib",
}  # fmt: skip


# Steps are those of the released settings; each beam's first action is sampled from one row for all its copies.
@pytest.mark.parametrize(
    ("setting", "steps", "rows"),
    [("halfcheetah", 108, 4544), ("hopper", 229, 36864), ("walker2d", 358, 59136), ("ant", 158, 25856)],
)
def test_steps_and_rows_are_counted_from_the_setting(setting, steps, rows):
    observation_dim, action_dim, horizon, beam_width = SETTINGS[setting]
    layout = TransitionLayout.plain(observation_dim, action_dim, 100)
    cost = plan_cost(ModelConfig(), layout, PlanningConfig(horizon=horizon, beam_width=beam_width))
    assert (cost.steps, cost.rows) == (steps, rows)


def test_keys_and_flops_of_a_tiny_plan_are_those_counted_by_hand():
    layout = TransitionLayout.plain(1, 1, 4)
    planning = PlanningConfig(horizon=1, beam_width=2, expansion_factor=3, context_transitions=0)
    cost = plan_cost(ModelConfig(layers=1, heads=1, width=2), layout, planning)
    # Action and reward of 6 copies: each meets the observation, itself, and what stands between.
    assert (cost.steps, cost.rows, cost.row_keys) == (3, 12, 6 * 2 + 6 * 3)
    per_row = 2 * (12 * 2 * 2 + 2 * 5)
    assert cost.flops == per_row * (12 + 1) + 4 * 2 * (30 + 0.5)


def test_the_roofline_is_the_slower_of_products_and_reads():
    cost = PlanCost(steps=1, rows=1, row_keys=1, flops=100.0, bytes=30.0)
    assert roofline_seconds(cost, MachineRates(flops=10.0, bytes=10.0)) == 10
    assert roofline_seconds(cost, MachineRates(flops=100.0, bytes=10.0)) == 3


def test_the_law_is_found_again_in_times_that_follow_it():
    costs = [
        (PlanCost(s, r, k, 0.0, 0.0), e)
        for s, r, k, e in ((9, 70, 900, 1), (20, 90, 5000, 2), (3, 80, 60, 4), (7, 5, 9, 1))
    ]
    durations = [2e-6 * c.steps + 3e-6 * c.rows * e + 4e-9 * c.row_keys * e for c, e in costs]
    law = fitted_law(costs, durations)
    assert law["microseconds_per_step"] == pytest.approx(2)
    assert law["microseconds_per_row"] == pytest.approx(3)
    assert law["nanoseconds_per_key"] == pytest.approx(4)
    assert law["largest_relative_error"] < 1e-9


def test_a_small_run_agrees_with_the_reference_and_reports_everything(capsys, monkeypatch):
    monkeypatch.setattr("pipeline.benchmarks.planner.measured_rates", lambda device, dtype: MachineRates(1e11, 1e10))
    threads = torch.get_num_threads()
    try:
        result = run(PlannerBenchmark(setting="halfcheetah", horizon=2, beam_width=4, threads=1, repeats=1))
    finally:
        torch.set_num_threads(threads)
    assert set(result) >= REQUIRED
    assert result["identical"] is True
    assert result["ratio"] == result["reference_seconds_per_plan"] / result["seconds_per_plan"]
    assert "Planner, halfcheetah" in capsys.readouterr().out


def test_a_record_is_appended_as_one_line_with_commit_and_hardware(tmp_path):
    path = tmp_path / "results.jsonl"
    record.append_record({"benchmark": "planner"}, path)
    record.append_record({"benchmark": "train"}, path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["benchmark"] for line in lines] == ["planner", "train"]
    told = {"commit": commit(), **hardware(), "torch": torch.__version__}
    assert {name: lines[0][name] for name in told} == told
    assert datetime.fromisoformat(lines[0]["date"]).tzinfo is not None


def test_a_record_without_a_place_for_it_is_refused(tmp_path):
    with pytest.raises(StorageError, match="cannot be written; expected its folder to exist"):
        record.append_record({}, tmp_path / "absent" / "results.jsonl")
