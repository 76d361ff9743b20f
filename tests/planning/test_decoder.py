import numpy as np
import pytest
import torch

from pipeline.planning.compiled_stepper import CompiledStepper
from pipeline.planning.dense_stepper import DenseStepper
from pipeline.planning.stepper import SearchShape
from tests.planning.decoding import D, compare_a_shorter_past, compare_at_every_token, make_decoder
from tests.planning.scenes import LAYOUT, random_model


@pytest.mark.parametrize(
    ("stepper", "dtype", "products", "tolerance"),
    [
        (CompiledStepper, torch.float64, None, 1e-12),
        (CompiledStepper, torch.float32, None, 1e-4),
        (DenseStepper, torch.float64, None, 1e-12),
        (DenseStepper, torch.float32, None, 1e-4),
        # bfloat16 rounds to 2^-9 of a number; logits are up to 3 here, and off by 0.013 at most.
        (DenseStepper, torch.float32, torch.bfloat16, 0.03),
    ],
)
@pytest.mark.parametrize("window", [6, 4])
def test_logits_at_every_token_are_those_of_the_model_without_a_cache(stepper, dtype, products, tolerance, window):
    compare_at_every_token(random_model(window, dtype), stepper, tolerance, products)


@pytest.mark.parametrize("stepper", [DenseStepper, CompiledStepper])
def test_a_shorter_past_gives_the_logits_of_a_shorter_window(stepper):
    compare_a_shorter_past(random_model(6), stepper, 1e-12)


def test_all_logits_of_absent_bins_are_minus_infinity():
    model = random_model(6)
    decoder = make_decoder(model, SearchShape(1, 1, 1, 0, 1, 6), DenseStepper)
    with torch.inference_mode():
        decoder.start(torch.zeros(1, 0, D, dtype=torch.long), torch.zeros(1, 3, dtype=torch.long), torch.tensor([0]))
        logits = decoder.branch(torch.zeros(1, 1, 1, dtype=torch.long), dimension=3)
    np.testing.assert_array_equal(torch.isinf(logits[0, 0, 0]).nonzero()[:, 0], range(LAYOUT.bins[4], 7))
