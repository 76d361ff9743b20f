import numpy as np
import pytest
import torch

from pipeline.benchmarks.planner import PlannerBenchmark, run
from pipeline.planning.beam import BeamPlanner
from pipeline.planning.config import PlanningConfig
from tests.planning.scenes import random_discretizer, random_model, request

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: the captured search is not tested here"),
]
CONFIG = PlanningConfig(beam_width=6, horizon=5, context_transitions=2, precision="float32")


@pytest.mark.parametrize(
    "knobs",
    [{}, {"k_obs": 2}, {"ranking": "log_likelihood"}, {"precision": "bfloat16"}, {"gpu_kernels": "triton"}],
    ids=str,
)
@pytest.mark.parametrize("window", [7, 4])
def test_a_replay_gives_what_the_captured_search_gives_call_after_call(knobs, window, monkeypatch):
    model, discretizer = random_model(window, torch.float32), random_discretizer()
    config = CONFIG.model_copy(update=knobs)
    captured = BeamPlanner(model, discretizer, config, 3, "cuda")
    monkeypatch.setattr("pipeline.planning.beam.CapturedSearch", lambda search, example: search)
    plain = BeamPlanner(model, discretizer, config, 3, "cuda")
    for call in range(4):
        # What the graph's tensors gave back would be handed out here and overwritten.
        filled = [torch.full((size,), 7.0, device="cuda") for size in (1, 16, 100, 1000, 10_000)]
        requests = [request(config, 10 * call + seed, transitions) for seed, transitions in enumerate((0, 1, 2))]
        for one, other in zip(captured.plan(requests), plain.plan(requests), strict=True):
            np.testing.assert_array_equal(one.tokens, other.tokens)
            np.testing.assert_array_equal(one.values, other.values)
        assert all(bool((tensor == 7.0).all()) for tensor in filled)


@pytest.mark.parametrize("window", [7, 4])
def test_a_gpu_gives_the_plans_of_the_cpu_in_float64(window):
    model, discretizer = random_model(window), random_discretizer()
    requests = [request(CONFIG, seed, transitions) for seed, transitions in enumerate((0, 1, 2))]
    here = BeamPlanner(model, discretizer, CONFIG, 3).plan(requests)
    there = BeamPlanner(model, discretizer, CONFIG, 3, "cuda").plan(requests)
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        np.testing.assert_allclose(one.values, other.values, atol=1e-10)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernels", ["torch", "triton"])
@pytest.mark.parametrize("window", [5, 3])
def test_a_plan_on_a_gpu_is_the_same_to_the_bit_alone_and_beside_others(precision, window, kernels):
    config = CONFIG.model_copy(update={"precision": precision, "gpu_kernels": kernels})
    planner = BeamPlanner(random_model(window, torch.float32), random_discretizer(), config, 3, "cuda")
    wanted, others = request(config, 7, 1), [request(config, 1, 2), request(config, 2, 0)]
    alone = planner.plan([wanted])[0]
    beside = planner.plan([*others, wanted])[2]
    np.testing.assert_array_equal(alone.tokens, beside.tokens)
    assert alone.predicted_return == beside.predicted_return


@pytest.mark.parametrize("kernels", ["torch", "triton"])
def test_the_benchmark_runs_on_a_gpu_and_agrees_with_the_reference(kernels):
    small = {"setting": "halfcheetah", "episodes": 2, "horizon": 2, "beam_width": 4, "repeats": 2}
    options = PlannerBenchmark(**small, device="cuda", precision="float32", gpu_kernels=kernels)
    assert run(options)["identical"]
