"""What must not depend on the processor's kind: that a plan is the same in any slot, and a product's bits."""

import hashlib

import numpy as np
import pytest

from pipeline.planning.kernels import COLUMNS, ROWS, affine
from tests.planning.slots import PLANS
from tests.processors import emulated, run_as

pytestmark = pytest.mark.skipif(not emulated(), reason="only x86 processors can be told to be others")

SEEN = """
import torch
from llvmlite import ir
from numba.core.registry import cpu_target
from pipeline.planning.kernels import _tile
context = cpu_target.target_context
print(torch.backends.cpu.get_cpu_capability(), context.codegen().magic_tuple()[1], _tile(context, ir.FloatType()))
"""
PRODUCT = "from tests.planning.test_processors import product; print(product())"


def product() -> str:
    """Returns a hash of a product's bits."""
    generator = np.random.default_rng(0)
    x, panels = generator.normal(size=(ROWS, 128)), generator.normal(size=(3, 128, COLUMNS))
    out = np.empty((ROWS, 3 * COLUMNS), np.float32)
    affine(x.astype(np.float32), panels.astype(np.float32), np.zeros(3 * COLUMNS, np.float32), out)
    return hashlib.sha256(out.tobytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("instructions", emulated())
def test_plans_are_the_same_to_the_bit_in_any_slot(instructions):
    assert run_as(instructions, "-m", "tests.planning.slots").splitlines() == [f"{PLANS} plans, 0 differ"]


@pytest.mark.slow
def test_processors_with_fused_multiplications_give_products_of_the_same_bits():
    with_fused = [name for name in emulated() if name != "AVX"]
    if len(with_fused) < 2:
        pytest.skip("this processor can be told to be one kind with fused multiplications only")
    hashes = {name: run_as(name, "-c", PRODUCT) for name in with_fused}
    assert len(set(hashes.values())) == 1, hashes


@pytest.mark.parametrize("instructions", emulated())
def test_an_emulated_processor_is_what_torch_and_numba_see(instructions):
    """Else the tests above would all run on one and the same kind, with one and the same tile."""
    expected = {
        "AVX": "DEFAULT sandybridge (4, 16)",
        "AVX2": "AVX2 haswell (4, 16)",
        "AVX512": "AVX512 skylake-avx512 (8, 32)",
    }
    assert run_as(instructions, "-c", SEEN).strip() == expected[instructions]
