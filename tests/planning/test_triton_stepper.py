"""The kernels for a GPU: there as they are, elsewhere in Triton's interpreter, which takes their steps in numpy."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

ON_GPU = torch.cuda.is_available()
if not ON_GPU:
    # Read when the kernels are defined. Nothing but this file imports them where there is no GPU.
    os.environ["TRITON_INTERPRET"] = "1"
triton = pytest.importorskip("triton", reason="triton is not installed: the GPU's kernels are not tested")

from pipeline.planning import triton_stepper  # noqa: E402
from pipeline.planning.beam import BeamPlanner  # noqa: E402
from pipeline.planning.config import PlanningConfig  # noqa: E402
from pipeline.planning.dense_stepper import DenseStepper  # noqa: E402
from pipeline.planning.triton_stepper import TritonStepper  # noqa: E402
from tests.planning.decoding import compare_a_shorter_past, compare_at_every_token  # noqa: E402
from tests.planning.scenes import random_discretizer, random_model, request  # noqa: E402

DEVICE = "cuda" if ON_GPU else "cpu"
pytestmark = [pytest.mark.gpu] if ON_GPU else []


@pytest.fixture(params=[True, False], ids=["fused", "torch"])
def fused(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a block is one kernel, or torch's operators."""
    monkeypatch.setattr(triton_stepper, "_is_fused", lambda weights: request.param)
    return bool(request.param)


@pytest.mark.parametrize("window", [6, 4])
@pytest.mark.parametrize(("heads", "width"), [(2, 16), (3, 36)])
def test_logits_at_every_token_are_those_of_the_model_without_a_cache(
    fused: bool, window: int, heads: int, width: int
) -> None:
    model = random_model(window, torch.float32, heads=heads, width=width, scale=0.4 * (16 / width) ** 0.5)
    compare_at_every_token(model, TritonStepper, 1e-4, device=DEVICE)


@pytest.mark.skipif(not ON_GPU, reason="no CUDA device: Triton's interpreter has no products of bfloat16")
@pytest.mark.parametrize("window", [6, 4])
def test_logits_in_bfloat16_are_those_of_the_model_within_its_rounding(fused: bool, window: int) -> None:
    model = random_model(window, torch.float32)
    # As for the dense stepper: logits are up to 3 here.
    compare_at_every_token(model, TritonStepper, 0.03, torch.bfloat16, DEVICE)


def test_a_shorter_past_gives_the_logits_of_a_shorter_window(fused: bool) -> None:
    compare_a_shorter_past(random_model(6, torch.float32), TritonStepper, 1e-4, DEVICE)


@pytest.mark.parametrize("window", [6, 3])
def test_plans_of_shorter_pasts_are_those_of_torch(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = PlanningConfig(beam_width=3, horizon=4, context_transitions=2, precision="float32")
    requests = [request(config, seed, transitions) for seed, transitions in enumerate((0, 1, 2))]
    plans = []
    # In float32 torch's own plan of one of them takes another action than in float64.
    for stepper, dtype in ((TritonStepper, torch.float32), (DenseStepper, torch.float64)):
        monkeypatch.setattr("pipeline.planning.beam.make_stepper", stepper)
        # Three at a time on a CPU too: what is real differs from episode to episode.
        monkeypatch.setattr("pipeline.planning.beam._episodes_per_search", lambda *given: 3)
        planner = BeamPlanner(random_model(window, dtype), random_discretizer(), config, 3, DEVICE)
        plans.append(planner.plan(requests))
    for ours, theirs in zip(*plans, strict=True):
        np.testing.assert_array_equal(ours.tokens, theirs.tokens)
        np.testing.assert_allclose(ours.values, theirs.values, atol=1e-5)


def test_with_the_home_folder_closed_kernels_are_kept_below_the_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with triton.knobs.cache.scope():
        triton.knobs.cache.dir = str(tmp_path / "home" / ".triton" / "cache")
        triton_stepper.keep_kernels()
        kept = f"trajectory-pipeline-triton-{os.getuid()}"
        assert triton.knobs.cache.dir == str(tmp_path / kept)
        (tmp_path / kept).chmod(0o777)
        triton.knobs.cache.dir = str(tmp_path / "home" / ".triton" / "cache")
        triton_stepper.keep_kernels()
        assert Path(triton.knobs.cache.dir).parent == tmp_path
        assert Path(triton.knobs.cache.dir).name not in (kept, "home")
        open_already = triton.knobs.cache.dir
        triton_stepper.keep_kernels()
        assert triton.knobs.cache.dir == open_already
