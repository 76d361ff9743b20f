import numpy as np
import pytest
import torch

from pipeline.models.block import _unfused_attention, attention
from pipeline.models.config import ModelConfig
from pipeline.models.dropout import Dropout, scaled_mask
from pipeline.models.kernels import draw_mask
from pipeline.models.trajectory_transformer import TrajectoryTransformer
from pipeline.tokens.layout import TransitionLayout


def test_elements_are_dropped_at_the_rate_and_the_rest_keeps_the_mean() -> None:
    torch.manual_seed(0)
    mask = scaled_mask(torch.Size([1000, 1000]), 0.1, torch.float32)
    assert (mask == 0).float().mean().item() == pytest.approx(0.1, abs=0.002)
    assert mask.mean().item() == pytest.approx(1, abs=0.002)
    assert len(mask.unique()) == 2


def test_the_seed_of_torch_decides() -> None:
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(scaled_mask(torch.Size([50]), 0.5, torch.float32))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_two_calls_drop_different_elements() -> None:
    dropout = Dropout(0.5)
    assert not torch.equal(dropout(torch.ones(100)), dropout(torch.ones(100)))


def test_gradients_pass_where_elements_were_kept() -> None:
    x = torch.ones(100, requires_grad=True)
    y = Dropout(0.3)(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_nothing_is_dropped_in_evaluation_or_without_a_probability() -> None:
    x = torch.randn(10)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_attention_with_dropout_has_the_mean_of_attention_without() -> None:
    """Every share is kept or dropped alone, so the mean over many draws is the plain attention."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 5, 4) for _ in range(3))
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    plain = attention(q, k, v, mask, 0.0)
    draws = torch.stack([attention(q, k, v, mask, 0.2) for _ in range(4000)])
    # The standard error of the mean of 4000 draws of about unit spread is 0.016; 5 of them.
    assert torch.allclose(draws.mean(0), plain, atol=0.08)
    assert draws.std(0).max() > 0.1


def test_what_is_hidden_stays_hidden_under_dropout() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1, 3, 4) for _ in range(3))
    mask = torch.ones(3, 3, dtype=torch.bool).tril()
    outputs = []
    for last in (0.0, 9.0):
        torch.manual_seed(1)
        v[0, 0, 2] = last
        outputs.append(attention(q, k, v, mask, 0.2))
    assert torch.equal(outputs[0][:, :, :2], outputs[1][:, :, :2])


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradients_of_unfused_attention_are_those_of_plain_arithmetic(dropout: float) -> None:
    """More queries than one part has; the masks are drawn part by part, so the same seed gives the same ones."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 70, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))
    visible = torch.ones(70, 70, dtype=torch.bool).tril()
    weights = torch.randn(1, 2, 70, 3, dtype=torch.float64)
    torch.manual_seed(1)
    ours = torch.autograd.grad((_unfused_attention(q, k, v, visible, dropout) * weights).sum(), (q, k, v))
    torch.manual_seed(1)
    kept = torch.ones(1, 2, 70, 70, dtype=torch.float64)
    if dropout:
        kept[0, :, :64, :64] = scaled_mask(torch.Size([2, 64, 64]), dropout, torch.float64)
        kept[0, :, 64:] = scaled_mask(torch.Size([2, 6, 70]), dropout, torch.float64)
    scores = (q @ k.transpose(2, 3) / 3**0.5).masked_fill(~visible, -torch.inf)
    y = (torch.softmax(scores, dim=-1) * kept) @ v
    expected = torch.autograd.grad((y * weights).sum(), (q, k, v))
    for gradient, reference in zip(ours, expected, strict=True):
        assert torch.allclose(gradient, reference, rtol=0, atol=1e-12)


def test_unfused_attention_is_the_fused_one() -> None:
    """More queries than one block has; bfloat16 keeps 8 bits of scores of about 3, hence of shares 1 / 64."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, 150, 8) for _ in range(3))
    mask = torch.ones(150, 150, dtype=torch.bool).tril()
    fused = attention(q, k, v, mask, 0.0)
    assert torch.allclose(_unfused_attention(q, k, v, mask, 0.0), fused, atol=1e-5)
    rough = attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), mask, 0.0)
    assert torch.allclose(rough.float(), fused, atol=0.05)


def test_masks_are_those_of_philox() -> None:
    """Known answer of Philox-4x32 with 7 rounds for counter 0 and key 0, from the Random123 distribution."""
    words = (0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48)
    pieces = [piece for word in words for piece in (word & 0xFFFF, word >> 16)]
    for place, piece in enumerate(pieces):
        kept = []
        for dropped in (piece, piece + 1):
            mask = np.full(8, 9, dtype=np.float32)
            draw_mask(np.uint64(0), np.uint64(dropped), np.float32(2), mask)
            kept.append(mask[place])
        assert kept == [2, 0], f"piece {place}"


def test_places_and_seeds_are_independent() -> None:
    masks = []
    for seed in (0, 1, 2**61):
        mask = np.empty(2**18, dtype=np.float32)
        draw_mask(np.uint64(seed), np.uint64(2**15), np.float32(1), mask)
        masks.append(2 * mask - 1)
    pairs = [(masks[0], masks[1]), (masks[0], masks[2])]
    pairs += [(masks[0][:-lag], masks[0][lag:]) for lag in (1, 2, 8, 2**15, 2**17)]
    # Means of 131 000 to 262 000 products of random signs; 5 standard errors.
    assert max(abs((a * b).mean()) for a, b in pairs) < 5 / 2**8.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_with_dropout_can_be_compiled(dtype: torch.dtype) -> None:
    """The tracer alone, without a C++ compiler: the masks are drawn as without it."""
    config = ModelConfig(layers=1, heads=2, width=8, window_transitions=2, dropout=0.2)
    model = TrajectoryTransformer(config, TransitionLayout.plain(2, 1, 5))
    tokens, gradients = torch.zeros(2, 9, dtype=torch.long), []
    for forward in (model, torch.compile(model, backend="eager")):
        torch.manual_seed(0)
        model.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
            forward(tokens).float().square().sum().backward()
        gradients.append(model.token_embedding.weight.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1])
