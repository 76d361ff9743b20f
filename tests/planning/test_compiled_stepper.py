import subprocess
import sys

import numpy as np
import pytest
import torch

from pipeline.planning.beam import BeamPlanner
from pipeline.planning.config import PlanningConfig
from pipeline.planning.dense_stepper import DenseStepper
from pipeline.tokens.layout import TransitionLayout
from tests.planning.scenes import random_discretizer, random_model, request

# 22 stored tokens of a transition are two vectors and not full; 101 outputs of width 192 are two panels and not full.
LAYOUT = TransitionLayout.plain(15, 6, num_bins=100)
CONFIG = PlanningConfig(beam_width=20, horizon=4, context_transitions=2)


@pytest.mark.parametrize("window", [6, 4])
@pytest.mark.parametrize(("heads", "width"), [(8, 192), (3, 60), (5, 15), (1, 20)])
def test_wide_models_give_the_same_plans_as_torch(heads, width, window, monkeypatch):
    model = random_model(window, torch.float64, LAYOUT, heads, width, scale=0.1)
    discretizer = random_discretizer(LAYOUT)
    requests = [request(CONFIG, seed, transitions, LAYOUT) for seed, transitions in enumerate((2, 0, 1))]
    plans = BeamPlanner(model, discretizer, CONFIG, 3).plan(requests)
    monkeypatch.setattr("pipeline.planning.beam.make_stepper", DenseStepper)
    for plan, expected in zip(plans, BeamPlanner(model, discretizer, CONFIG, 3).plan(requests), strict=True):
        np.testing.assert_array_equal(plan.tokens, expected.tokens)
        np.testing.assert_allclose(plan.values, expected.values, rtol=0, atol=1e-12)


@pytest.mark.parametrize("window", [6, 4])
def test_a_plan_is_the_same_to_the_bit_with_any_number_of_threads(window):
    model = random_model(window, torch.float32, LAYOUT, heads=4, width=64, scale=0.1)
    before, values = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            planner = BeamPlanner(model, random_discretizer(LAYOUT), CONFIG, 1)
            values.append(planner.plan([request(CONFIG, 7, 2, LAYOUT)])[0].values)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(values[0], values[1])
    np.testing.assert_array_equal(values[0], values[2])


def test_a_machine_without_the_compiler_can_import_planner_and_training() -> None:
    modules = "pipeline.methods.trajectory_transformer.policy, pipeline.training.step"
    code = f"import sys; sys.modules['numba'] = None; import {modules}"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
