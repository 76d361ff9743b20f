"""A decoder against the model without a cache, for any stepper."""

import torch

from pipeline.models.trajectory_transformer import TrajectoryTransformer
from pipeline.planning.decoder import Decoder
from pipeline.planning.selection import Kept
from pipeline.planning.stepper import SearchShape
from pipeline.planning.weights import Weights
from tests.planning.scenes import LAYOUT

E, K, X, C, H, D = 2, 3, 2, 2, 4, LAYOUT.transition_dim


def drawn(generator: torch.Generator, dimension: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, LAYOUT.bins[dimension], shape, generator=generator)


def make_decoder(
    model: TrajectoryTransformer,
    shape: SearchShape,
    stepper: type,
    product_dtype: torch.dtype | None = None,
    device: str = "cpu",
) -> Decoder:
    weights = Weights(model, torch.device(device), product_dtype or model.position_embedding.dtype)
    return Decoder(weights, LAYOUT, shape, stepper(weights, LAYOUT, shape))


def compare(actual: torch.Tensor, model: TrajectoryTransformer, tokens: torch.Tensor, tolerance: float) -> None:
    """Holds logits (..., V) against the uncached model's after `tokens` (..., L), cropped to its window."""
    excess = max(0, tokens.shape[-1] - model.max_inputs)
    tokens = tokens[..., -(-excess // D) * D :]
    expected = model(tokens.flatten(0, -2))[:, -1].view_as(actual)
    torch.testing.assert_close(actual.cpu(), expected, atol=tolerance, rtol=0)


@torch.inference_mode()
def compare_at_every_token(
    model: TrajectoryTransformer,
    stepper: type,
    tolerance: float,
    product_dtype: torch.dtype | None = None,
    device: str = "cpu",
) -> None:
    """Plans with random tokens, of which some beams go on twice and some not, past the end of the window."""
    window = model.config.window_transitions
    decoder = make_decoder(model, SearchShape(E, K, X, C, H, window), stepper, product_dtype, device)
    generator = torch.Generator().manual_seed(0)
    context = torch.stack([drawn(generator, d, E, C) for d in range(D)], dim=-1)
    observation = torch.stack([drawn(generator, d, E) for d in range(LAYOUT.observation_dim)], dim=-1)
    logits_EV = decoder.start(context.to(device), observation.to(device), torch.tensor([C, C], device=device))
    tokens_EL = torch.cat([context.flatten(1), observation], dim=1)
    compare(logits_EV, model, tokens_EL, tolerance)
    beam = tokens_EL[:, None].expand(E, K, -1)
    for step in range(H - 1):
        copies = beam[:, :, None].expand(E, K, X, -1)
        for dimension in range(LAYOUT.action.start, LAYOUT.reward + 1):
            token = drawn(generator, dimension, E, K, X)
            copies = torch.cat([copies, token[..., None]], dim=-1)
            compare(decoder.branch(token.to(device), dimension), model, copies, tolerance)
        source, copy = torch.tensor([[0, 0, 2], [1, 1, 0]]), torch.tensor([[1, 0, 1], [0, 1, 1]])
        decoder.keep(Kept(source.to(device), copy.to(device)))
        value = drawn(generator, LAYOUT.value, E, K)
        beam = torch.cat([Kept(source, copy).of_candidates(copies), value[..., None]], dim=-1)
        if C + step + 2 <= window:
            logits_EKV = decoder.follow(value.to(device), LAYOUT.value)
        else:
            logits_EKV = decoder.slide(beam.view(E, K, -1, D).to(device))
        compare(logits_EKV, model, beam, tolerance)
        decoder.advance()
        for dimension in range(LAYOUT.observation_dim):
            token = drawn(generator, dimension, E, K)
            beam = torch.cat([beam, token[..., None]], dim=-1)
            compare(decoder.follow(token.to(device), dimension), model, beam, tolerance)


@torch.inference_mode()
def compare_a_shorter_past(model: TrajectoryTransformer, stepper: type, tolerance: float, device: str = "cpu") -> None:
    """Of two episodes beside each other, one has half a context and one has none."""
    decoder = make_decoder(model, SearchShape(E, K, X, C, H, 6), stepper, device=device)
    generator = torch.Generator().manual_seed(0)
    context = torch.stack([drawn(generator, d, E, C) for d in range(D)], dim=-1)
    observation = torch.stack([drawn(generator, d, E) for d in range(LAYOUT.observation_dim)], dim=-1)
    logits_EV = decoder.start(context.to(device), observation.to(device), torch.tensor([1, 0], device=device))
    pasts = [torch.cat([context[:1, 1:].flatten(1), observation[:1]], dim=1), observation[1:]]
    for episode, past in enumerate(pasts):
        compare(logits_EV[episode : episode + 1], model, past, tolerance)
    token = drawn(generator, LAYOUT.action.start, E, K, X)
    logits_EKXV = decoder.branch(token.to(device), LAYOUT.action.start)
    for episode, past in enumerate(pasts):
        tokens = torch.cat([past[:, None, None].expand(1, K, X, -1), token[episode : episode + 1, ..., None]], dim=-1)
        compare(logits_EKXV[episode : episode + 1], model, tokens, tolerance)
