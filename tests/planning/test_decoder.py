import numpy as np
import pytest
import torch

from pipeline.planning.compiled_stepper import CompiledStepper
from pipeline.planning.decoder import Decoder
from pipeline.planning.dense_stepper import DenseStepper
from pipeline.planning.selection import Kept
from pipeline.planning.stepper import SearchShape
from pipeline.planning.weights import Weights
from tests.planning.scenes import LAYOUT, random_model

E, K, X, C, H, D = 2, 3, 2, 2, 4, LAYOUT.transition_dim


def drawn(generator: torch.Generator, dimension: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, LAYOUT.bins[dimension], shape, generator=generator)


def make_decoder(model, shape: SearchShape, stepper: type, product_dtype: torch.dtype | None = None) -> Decoder:
    weights = Weights(model, torch.device("cpu"), product_dtype or model.position_embedding.dtype)
    return Decoder(weights, LAYOUT, shape, stepper(weights, LAYOUT, shape))


def compare(actual: torch.Tensor, model, tokens: torch.Tensor, tolerance: float) -> None:
    """Holds logits (..., V) against the uncached model's after `tokens` (..., L), cropped to its window."""
    excess = max(0, tokens.shape[-1] - model.max_inputs)
    tokens = tokens[..., -(-excess // D) * D :]
    expected = model(tokens.flatten(0, -2))[:, -1].view_as(actual)
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


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
@torch.inference_mode()
def test_logits_at_every_token_are_those_of_the_model_without_a_cache(stepper, dtype, products, tolerance, window):
    model = random_model(window, dtype)
    decoder = make_decoder(model, SearchShape(E, K, X, C, H, window), stepper, products)
    generator = torch.Generator().manual_seed(0)
    context = torch.stack([drawn(generator, d, E, C) for d in range(D)], dim=-1)
    observation = torch.stack([drawn(generator, d, E) for d in range(LAYOUT.observation_dim)], dim=-1)
    logits_EV = decoder.start(context, observation, torch.tensor([C, C]))
    tokens_EL = torch.cat([context.flatten(1), observation], dim=1)
    compare(logits_EV, model, tokens_EL, tolerance)
    beam = tokens_EL[:, None].expand(E, K, -1)
    for step in range(H - 1):
        copies = beam[:, :, None].expand(E, K, X, -1)
        for dimension in range(LAYOUT.action.start, LAYOUT.reward + 1):
            token = drawn(generator, dimension, E, K, X)
            copies = torch.cat([copies, token[..., None]], dim=-1)
            compare(decoder.branch(token, dimension), model, copies, tolerance)
        kept = Kept(torch.tensor([[0, 0, 2], [1, 1, 0]]), torch.tensor([[1, 0, 1], [0, 1, 1]]))
        decoder.keep(kept)
        value = drawn(generator, LAYOUT.value, E, K)
        beam = torch.cat([kept.of_candidates(copies), value[..., None]], dim=-1)
        if C + step + 2 <= window:
            logits_EKV = decoder.follow(value, LAYOUT.value)
        else:
            logits_EKV = decoder.slide(beam.view(E, K, -1, D))
        compare(logits_EKV, model, beam, tolerance)
        decoder.advance()
        for dimension in range(LAYOUT.observation_dim):
            token = drawn(generator, dimension, E, K)
            beam = torch.cat([beam, token[..., None]], dim=-1)
            compare(decoder.follow(token, dimension), model, beam, tolerance)


@pytest.mark.parametrize("stepper", [DenseStepper, CompiledStepper])
@torch.inference_mode()
def test_a_shorter_past_gives_the_logits_of_a_shorter_window(stepper):
    model = random_model(6)
    decoder = make_decoder(model, SearchShape(E, K, X, C, H, 6), stepper)
    generator = torch.Generator().manual_seed(0)
    context = torch.stack([drawn(generator, d, E, C) for d in range(D)], dim=-1)
    observation = torch.stack([drawn(generator, d, E) for d in range(LAYOUT.observation_dim)], dim=-1)
    logits_EV = decoder.start(context, observation, torch.tensor([1, 0]))
    compare(logits_EV[:1], model, torch.cat([context[:1, 1:].flatten(1), observation[:1]], dim=1), 1e-12)
    compare(logits_EV[1:], model, observation[1:], 1e-12)


def test_all_logits_of_absent_bins_are_minus_infinity():
    model = random_model(6)
    decoder = make_decoder(model, SearchShape(1, 1, 1, 0, 1, 6), DenseStepper)
    with torch.inference_mode():
        decoder.start(torch.zeros(1, 0, D, dtype=torch.long), torch.zeros(1, 3, dtype=torch.long), torch.tensor([0]))
        logits = decoder.branch(torch.zeros(1, 1, 1, dtype=torch.long), dimension=3)
    np.testing.assert_array_equal(torch.isinf(logits[0, 0, 0]).nonzero()[:, 0], range(LAYOUT.bins[4], 7))
