"""The training step where there is a GPU."""

import numpy as np
import pytest
import torch

from pipeline.benchmarks.train import TrainBenchmark, run
from pipeline.data.table import TOKENS
from pipeline.methods.trajectory_transformer.objective import TokenObjective
from pipeline.models.trajectory_transformer import TrajectoryTransformer
from pipeline.tokens.layout import TransitionLayout
from pipeline.training.config import TrainingConfig
from pipeline.training.state import host_copy
from pipeline.training.step import TrainStep
from pipeline.training.windows import Windows
from pipeline.training.world import World
from tests.training.tasks import MODEL

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: training on a GPU is not tested here"),
]
LAYOUT = TransitionLayout.plain(2, 1, 10)


def batch(device: str = "cuda", seed: int = 0) -> Windows:
    """Eight windows; the last row of some lies beyond the end of an episode that terminated, or did not."""
    tokens = np.random.default_rng(seed).integers(10, size=(8, MODEL.window_transitions, LAYOUT.transition_dim))
    real = torch.ones(8, MODEL.window_transitions, dtype=torch.bool)
    real[:4, -1] = False
    timesteps = torch.arange(MODEL.window_transitions).expand(8, -1)
    windows = torch.from_numpy(tokens.astype(np.uint8)), real, torch.arange(8) % 2 == 0, timesteps
    held, *facts = (tensor.to(device) for tensor in windows)
    return Windows({TOKENS: held}, *facts)


def step_of(model: TrajectoryTransformer, **training: object) -> TrainStep:
    config = TrainingConfig.model_validate({"batch_size": 8, "cuda_graph": True, **training})
    return TrainStep(TokenObjective(model, MODEL.loss_weights), config, World(device=model.mask.device), 0)


def make_step(**training: object) -> TrainStep:
    torch.manual_seed(0)
    return step_of(TrajectoryTransformer(MODEL, LAYOUT).cuda(), **training)


@pytest.mark.parametrize("cuda_graph", [True, False])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_never_waits_for_the_gpu(precision: str, cuda_graph: bool) -> None:
    step, windows = make_step(precision=precision, cuda_graph=cuda_graph), batch()
    for number in range(5):  # loads kernels, makes the optimizer's state, captures
        step(windows, number, 1e-3)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = step(windows, 5, 1e-3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(result.gradient_norm)


def test_a_step_is_that_of_the_cpu_before_rounding() -> None:
    model = MODEL.model_copy(update={"dropout": 0.0})
    torch.manual_seed(0)
    here = TrajectoryTransformer(model, LAYOUT)
    there = TrajectoryTransformer(model, LAYOUT).cuda()
    there.load_state_dict(here.state_dict())
    theirs = step_of(there, precision="float32")(batch(), 0, 1e-3)
    ours = step_of(here, precision="float32")(batch("cpu"), 0, 1e-3)
    assert theirs.gradient_norm.item() == pytest.approx(ours.gradient_norm.item(), rel=1e-4)
    torch.testing.assert_close(theirs.sums.cpu(), ours.sums, rtol=1e-4, atol=0)


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_replayed_steps_are_the_launched_ones_to_the_bit(precision: str, accumulation: int) -> None:
    options = {"precision": precision, "accumulation_steps": accumulation}
    replayed, launched = (make_step(**options, cuda_graph=replay) for replay in (True, False))
    norms = []
    for number in range(8):
        windows = batch(seed=number)
        # What the graph's tensors gave back would be handed out here and overwritten.
        filled = [torch.full((size,), 7.0, device="cuda") for size in (1, 16, 100, 1000, 10_000)]
        ours, theirs = (step(windows, number, 1e-3 / (number + 1)) for step in (replayed, launched))
        assert torch.equal(ours.sums, theirs.sums), number
        assert torch.equal(ours.gradient_norm, theirs.gradient_norm), number
        norms.append(ours.gradient_norm.item())
        assert all(bool((tensor == 7.0).all()) for tensor in filled)
        # Between steps a run validates, with kernels of its own.
        assert torch.equal(replayed.evaluate(windows), launched.evaluate(windows))
    assert len(set(norms)) == 8
    for name, parameter in replayed.model.named_parameters():
        assert torch.equal(parameter, launched.model.get_parameter(name)), name


def test_a_run_that_goes_on_is_the_one_that_was_not_interrupted() -> None:
    whole, before, after = (make_step() for _ in range(3))
    for number in range(12):
        whole(batch(seed=number), number, 1e-3)
    for number in range(6):
        before(batch(seed=number), number, 1e-3)
    after.model.load_state_dict(host_copy(before.model.state_dict()))
    after.optimizer.load_state_dict(host_copy(before.optimizer.state_dict()))
    for number in range(6, 12):
        after(batch(seed=number), number, 1e-3)
    for name, parameter in after.model.named_parameters():
        assert torch.equal(parameter, whole.model.get_parameter(name)), name


def test_a_batch_of_another_size_is_refused_by_a_captured_step() -> None:
    step = make_step()
    for number in range(5):
        step(batch(), number, 1e-3)
    with pytest.raises(ValueError, match="7 windows; expected 8"):
        step(batch().slice(slice(7)), 5, 1e-3)


def test_a_compiled_step_learns() -> None:
    step, windows = make_step(compile=True), batch()
    losses = [float(step(windows, number, 3e-3).sums[0, 0]) for number in range(20)]
    assert losses[-1] < losses[0]


def test_the_optimizers_state_comes_back_to_the_gpu() -> None:
    step, windows = make_step(), batch()
    step(windows, 0, 1e-3)
    state = step.optimizer.state_dict()
    again = make_step()
    again.optimizer.load_state_dict(state)
    assert {value.device.type for entry in again.optimizer.state.values() for value in entry.values()} == {"cuda"}
    again(windows, 1, 1e-3)


def test_the_benchmark_agrees_with_the_reference_on_a_gpu() -> None:
    assert run(TrainBenchmark(device="cuda", batch_size=2, repeats=1, steps=1))["same_loss"]
