import pytest
import torch

from pipeline.models.block import _unfused_attention, attention
from pipeline.models.dropout import Dropout, scaled_mask


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


def test_unfused_attention_is_the_fused_one() -> None:
    """More queries than one block has; bfloat16 keeps 8 bits of scores of about 3, hence of shares 1 / 64."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, 150, 8) for _ in range(3))
    mask = torch.ones(150, 150, dtype=torch.bool).tril()
    fused = attention(q, k, v, mask, 0.0)
    assert torch.allclose(_unfused_attention(q, k, v, mask, 0.0), fused, atol=1e-5)
    rough = attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), mask, 0.0)
    assert torch.allclose(rough.float(), fused, atol=0.05)
