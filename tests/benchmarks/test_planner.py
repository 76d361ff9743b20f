import dataclasses
import json
import runpy
import subprocess
import sys
from datetime import datetime

import pytest
import torch

from pipeline.benchmarks import record
from pipeline.benchmarks.options import PLANNER_SETTINGS, PlannerBenchmark
from pipeline.benchmarks.planner import run
from pipeline.benchmarks.planner_cost import MachineRates, PlanCost, measured_rates, plan_cost, roofline_shares
from pipeline.benchmarks.planner_sweep import fitted_law, sweep
from pipeline.errors import StorageError
from pipeline.models.config import ModelConfig
from pipeline.planning.beam import BeamPlanner
from pipeline.planning.config import PlanningConfig
from pipeline.provenance import commit, computed_by, hardware
from pipeline.references.planner import ReferencePlanner
from pipeline.tokens.layout import TransitionLayout

REQUIRED = {
    "benchmark", "setting", "episodes", "device", "identical", "seconds_per_plan", "reference_seconds_per_plan",
    "ratio", "rows_per_second", "roofline_share", "peak_gib",
}  # fmt: skip
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


# Steps are those of the released settings; each beam's first action is sampled from one row for all its copies.
@pytest.mark.parametrize(
    ("setting", "steps", "rows"),
    [("halfcheetah", 108, 4544), ("hopper", 229, 36864), ("walker2d", 358, 59136), ("ant", 158, 25856)],
)
def test_steps_and_rows_are_counted_from_the_setting(setting, steps, rows):
    observation_dim, action_dim, horizon, beam_width = PLANNER_SETTINGS[setting]
    layout = TransitionLayout.plain(observation_dim, action_dim, 100)
    cost = plan_cost(ModelConfig(), layout, PlanningConfig(horizon=horizon, beam_width=beam_width))
    assert (cost.steps, cost.rows) == (steps, rows)


def test_keys_and_flops_of_a_tiny_plan_are_those_counted_by_hand():
    layout = TransitionLayout.plain(1, 1, 4)
    planning = PlanningConfig(horizon=1, beam_width=2, expansion_factor=3, context_transitions=0)
    cost = plan_cost(ModelConfig(layers=1, heads=1, width=2), layout, planning)
    # Action and reward of 6 copies: each meets the observation, itself, and what stands between.
    assert (cost.steps, cost.rows, cost.row_keys) == (3, 12, 6 * 2 + 6 * 3)
    weights = 12 * 2 * 2 + 2 * 5
    assert cost.flops == 2 * weights * (12 + 1) + 4 * 2 * (30 + 0.5)
    # Weights at each of the 3 steps; keys and values of width 2 of the 2 beams: 2 at the action, 3 at the reward.
    assert cost.bytes == 4 * (3 * weights + 2 * (2 + 3) * 2 * 2)


def test_more_episodes_share_the_weights_of_a_search_and_nothing_else():
    layout, model = TransitionLayout.plain(1, 1, 4), ModelConfig(layers=1, heads=1, width=2)
    planning = PlanningConfig(horizon=2, beam_width=2, context_transitions=0)
    one = plan_cost(model, layout, planning)
    together, apart = (plan_cost(model, layout, planning, 6, searches, itemsize=2) for searches in (1, 3))
    weights = one.steps * (12 * 2 * 2 + 2 * 5)
    assert (together.steps, apart.steps) == (one.steps, 3 * one.steps)
    assert together.flops == apart.flops == 6 * one.flops
    assert together.bytes == 2 * (weights + 6 * (one.bytes / 4 - weights))
    assert apart.bytes - together.bytes == 2 * 2 * weights


def test_the_roofline_is_the_slower_of_products_and_reads_and_on_a_cpu_the_products():
    cost = PlanCost(steps=1, rows=1, row_keys=1, flops=100.0, bytes=30.0)
    rates = MachineRates(flops=100.0, bytes=10.0)
    shares = {"flop_share": 0.1, "byte_share": 0.3}
    assert roofline_shares(cost, rates, 10.0, CUDA) == {**shares, "roofline_share": 0.3}
    assert roofline_shares(cost, rates, 10.0, CPU) == {**shares, "roofline_share": 0.1}


def test_a_machines_rates_are_the_counted_work_divided_by_the_seconds_of_the_fastest_call(monkeypatch):
    durations = iter([3.0, 0.5, 2.0, 1.0, 4.0, 9.0] * 2)

    def timed(function, device):
        return next(durations), function()

    monkeypatch.setattr("pipeline.timing.timed", timed)
    rates = measured_rates(CPU, torch.float32)
    assert rates == MachineRates(flops=2 * 1024**3 / 0.5, bytes=2 * 4 * 2**26 / 0.5)


def test_the_law_is_found_again_in_times_that_follow_it():
    costs = [PlanCost(s, r, k, 0.0, 0.0) for s, r, k in ((9, 70, 900), (20, 180, 10_000), (3, 320, 240), (7, 5, 9))]
    durations = [2e-6 * c.steps + 3e-6 * c.rows + 4e-9 * c.row_keys for c in costs]
    law = fitted_law(costs, durations)
    assert law["microseconds_per_step"] == pytest.approx(2)
    assert law["microseconds_per_row"] == pytest.approx(3)
    assert law["nanoseconds_per_key"] == pytest.approx(4)
    assert law["largest_relative_error"] < 1e-9


class Planned:
    """Something to time: calls are counted."""

    def __init__(self, planning, episodes):
        self.planning, self.episodes, self.calls = planning, episodes, 0

    def plan(self):
        self.calls += 1
        return []

    def cost(self):
        layout = TransitionLayout.plain(1, 1, 4)
        return plan_cost(ModelConfig(), layout, self.planning, self.episodes, searches=self.episodes)


def test_the_sweep_varies_one_number_at_a_time_and_prints_every_point(capsys):
    made = []

    def make(planning, episodes):
        made.append(Planned(planning, episodes))
        return made[-1]

    result = sweep(make, PlanningConfig(horizon=7, beam_width=100), CPU)
    shapes = [(point["beam_width"], point["horizon"], point["episodes"]) for point in result["points"]]
    assert all((width == 100) + (horizon == 7) + (episodes == 1) >= 2 for width, horizon, episodes in shapes)
    assert [len(set(numbers)) for numbers in zip(*shapes, strict=True)] == [6, 6, 4]
    assert all(point["seconds_per_plan"] == point["seconds_per_call"] / point["episodes"] for point in result["points"])
    assert {subject.calls for subject in made} == {4}
    assert len(capsys.readouterr().out.splitlines()) > len(shapes)


@pytest.fixture
def small_run(monkeypatch):
    """Runs a small benchmark on one thread, without measuring the machine."""
    monkeypatch.setattr("pipeline.benchmarks.planner.measured_rates", lambda device, dtype: MachineRates(1e11, 1e10))
    threads = torch.get_num_threads()
    yield lambda **options: run(PlannerBenchmark(setting="halfcheetah", horizon=2, beam_width=4, threads=1, **options))
    torch.set_num_threads(threads)


def test_a_small_run_agrees_with_the_reference_and_reports_everything(small_run, capsys):
    result = small_run(repeats=1)
    assert set(result) >= REQUIRED
    assert result["identical"] is True
    assert result["ratio"] == result["reference_seconds_per_plan"] / result["seconds_per_plan"]
    assert "Planner, halfcheetah" in capsys.readouterr().out


def test_another_plan_than_the_references_is_told(small_run, monkeypatch):
    class Other(ReferencePlanner):
        def plan(self, *arguments):
            plan = super().plan(*arguments)
            return dataclasses.replace(plan, tokens=plan.tokens + 1)

    monkeypatch.setattr("pipeline.benchmarks.planner.ReferencePlanner", Other)
    assert small_run(repeats=1)["identical"] is False


def test_agreement_is_that_of_float32_whatever_is_timed(small_run, monkeypatch):
    planned = []

    class Recording(BeamPlanner):
        def plan(self, requests):
            planned.append(self.product_dtype)
            return super().plan(requests)

    monkeypatch.setattr("pipeline.benchmarks.planner.BeamPlanner", Recording)
    result = small_run(repeats=2, precision="bfloat16")
    assert (result["precision"], result["identical"]) == ("bfloat16", True)
    assert planned == 3 * [torch.bfloat16] + [torch.float32]


def test_several_episodes_are_compared_with_one_alone(small_run):
    result = small_run(repeats=1, episodes=3, reference_repeats=0)
    assert result["seconds_per_plan"] == result["seconds_per_call"] / 3
    assert result["seconds_per_plan_alone"] > 0
    assert result["identical"] is result["ratio"] is None


def test_the_last_line_of_the_command_is_one_json_object():
    command = ["planner", "--setting", "halfcheetah", "--horizon", "1", "--beam_width", "2", "--repeats", "1"]
    done = subprocess.run([sys.executable, "jobs/benchmark.py", *command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout.splitlines()[-1])) >= REQUIRED


def test_a_record_is_appended_as_one_line_with_commit_and_hardware(tmp_path):
    path = tmp_path / "results.jsonl"
    record.append_record({"benchmark": "planner"}, path)
    record.append_record({"benchmark": "train", "device": "cpu, 2 threads"}, path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["benchmark"] for line in lines] == ["planner", "train"]
    told = {"commit": commit(), **hardware(), "computed_by": computed_by("cpu")}
    assert [{name: line[name] for name in told} for line in lines] == [told, told]
    assert datetime.fromisoformat(lines[0]["date"]).tzinfo is not None


def test_a_record_without_a_place_for_it_is_refused_before_anything_is_measured(tmp_path, monkeypatch):
    job = runpy.run_path("jobs/benchmark.py")
    absent = tmp_path / "absent" / "results.jsonl"
    check = record.require_place
    monkeypatch.setattr(record, "require_place", lambda: check(absent))
    monkeypatch.setattr("pipeline.benchmarks.planner.run", lambda _options: pytest.fail("it was measured"))
    with pytest.raises(StorageError, match="cannot be written; expected its folder to exist"):
        job["main"](["planner", "--record", "true"])
