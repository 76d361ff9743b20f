import numpy as np
import pytest
import torch

from pipeline.planning.beam import BeamPlanner
from pipeline.planning.config import PlanningConfig
from tests.planning.scenes import random_discretizer, random_model, request

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: the captured search is not tested here"),
]
CONFIG = PlanningConfig(beam_width=6, horizon=5, context_transitions=2, precision="float32")


@pytest.mark.parametrize("window", [7, 4])
def test_a_gpu_gives_the_plans_of_the_cpu_in_float64_call_after_call(window):
    model, discretizer = random_model(window), random_discretizer()
    here = BeamPlanner(model, discretizer, CONFIG, 3)
    there = BeamPlanner(model, discretizer, CONFIG, 3, "cuda")
    for first in (0, 3):
        requests = [request(CONFIG, first + seed, transitions) for seed, transitions in enumerate((0, 1, 2))]
        for one, other in zip(here.plan(requests), there.plan(requests), strict=True):
            np.testing.assert_array_equal(one.tokens, other.tokens)
            np.testing.assert_allclose(one.values, other.values, atol=1e-10)


def test_a_plan_on_a_gpu_is_the_same_to_the_bit_alone_and_beside_others():
    planner = BeamPlanner(random_model(5, torch.float32), random_discretizer(), CONFIG, 3, "cuda")
    wanted, others = request(CONFIG, 7, 1), [request(CONFIG, 1, 2), request(CONFIG, 2, 0)]
    alone = planner.plan([wanted])[0]
    beside = planner.plan([*others, wanted])[2]
    np.testing.assert_array_equal(alone.tokens, beside.tokens)
    assert alone.predicted_return == beside.predicted_return


def test_bfloat16_stays_near_float32():
    model, discretizer = random_model(5, torch.float32), random_discretizer()
    asked = request(CONFIG, 7, 2)
    plans = [
        BeamPlanner(model, discretizer, CONFIG.model_copy(update={"precision": precision}), 1, "cuda").plan([asked])[0]
        for precision in ("float32", "bfloat16")
    ]
    assert plans[0].predicted_return == pytest.approx(plans[1].predicted_return, abs=0.3)
