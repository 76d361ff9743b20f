import pytest
import torch

from pipeline.models.block import Block, Mlp, _unfused_attention
from pipeline.models.dropout import scaled_mask
from tests.models.released import Shape

CAUSAL = torch.ones(9, 9, dtype=torch.bool).tril()


@pytest.mark.parametrize("queries", [slice(1, None, 3), slice(-1, None), slice(None)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_rows_asked_for_are_those_of_the_whole(queries: slice, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    block, x = Block(Shape(heads=2)).double(), torch.randn(2, 9, 16, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        whole, rows = block(x, CAUSAL)[:, queries], block.at(x, queries, CAUSAL[queries])
    assert rows.shape == whole.shape
    torch.testing.assert_close(rows, whole, rtol=0, atol=1e-12 if dtype is torch.float64 else 0.02)


def test_dropout_is_drawn_for_the_rows_asked_for_as_for_the_whole() -> None:
    block, x, drawn = Block(Shape(dropout=0.3)), torch.randn(2, 9, 16), []
    for forward in (lambda: block(x, CAUSAL), lambda: block.at(x, slice(None), CAUSAL)):
        torch.manual_seed(0)
        drawn.append(forward())
    torch.testing.assert_close(*drawn)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradients_with_fewer_queries_than_keys_are_those_of_plain_arithmetic(dropout: float) -> None:
    """More queries than one part has; the masks are drawn part by part, so the same seed gives the same ones."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, length, 3, dtype=torch.float64, requires_grad=True) for length in (70, 140, 140))
    visible = torch.ones(140, 140, dtype=torch.bool).tril()[::2]
    weights = torch.randn(1, 2, 70, 3, dtype=torch.float64)
    torch.manual_seed(1)
    ours = _unfused_attention(q, k, v, visible, dropout)
    torch.manual_seed(1)
    kept = torch.ones(1, 2, 70, 140, dtype=torch.float64)
    if dropout:
        kept[0, :, :64] = scaled_mask(torch.Size([2, 64, 140]), dropout, torch.float64)
        kept[0, :, 64:] = scaled_mask(torch.Size([2, 6, 140]), dropout, torch.float64)
    scores = (q @ k.transpose(2, 3) / 3**0.5).masked_fill(~visible, -torch.inf)
    plain = (torch.softmax(scores, dim=-1) * kept) @ v
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad((y * weights).sum(), (q, k, v)) for y in (ours, plain)]
    for gradient, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=0, atol=1e-12)


def test_the_activation_is_the_one_asked_for() -> None:
    x = torch.randn(3, 16)
    for mlp, activation in ((Mlp(Shape()), torch.nn.GELU()), (Mlp(Shape(), "relu"), torch.nn.ReLU())):
        torch.testing.assert_close(mlp(x), mlp.contract(activation(mlp.expand(x))), rtol=0, atol=0)
