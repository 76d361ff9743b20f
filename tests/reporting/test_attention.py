import numpy as np
import pytest
import torch

from pipeline.models.block import Block
from pipeline.models.config import ModelConfig
from pipeline.models.trajectory_transformer import TrajectoryTransformer
from pipeline.reporting.attention import attention_plot, attention_weights
from pipeline.tokens.layout import TransitionLayout

LAYOUT = TransitionLayout.plain(observation_dim=3, action_dim=1, num_bins=10)
TOKENS = np.random.default_rng(0).integers(0, 10, size=3 * LAYOUT.transition_dim - 1).astype(np.uint8)


@pytest.fixture
def model() -> TrajectoryTransformer:
    torch.manual_seed(0)
    config = ModelConfig(layers=3, heads=2, width=16, window_transitions=3)
    built = TrajectoryTransformer(config, LAYOUT).eval()
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.5)  # large enough that maps are far from uniform
    return built


def test_the_weights_give_the_output_of_the_models_own_attention(model: TrajectoryTransformer) -> None:
    block = model.blocks[2]
    assert isinstance(block, Block)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    hook = block.attention.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    weights_HLL = torch.from_numpy(attention_weights(model, TOKENS, [2])[2])
    hook.remove()
    x_LD, output_LD = seen[0][0][0], seen[0][1][0]
    values_HLd = block.attention.qkv(x_LD)[:, 32:].view(-1, 2, 8).transpose(0, 1)
    mixed_LD = (weights_HLL @ values_HLd).transpose(0, 1).reshape(-1, 16)
    torch.testing.assert_close(block.attention.projection(mixed_LD), output_LD)


def test_no_token_attends_to_a_later_one_or_to_a_value(model: TrajectoryTransformer) -> None:
    weights = attention_weights(model, TOKENS, [0, 2])
    assert list(weights) == [0, 2]
    for maps_HLL in weights.values():
        np.testing.assert_allclose(maps_HLL.sum(axis=-1), 1, rtol=1e-5)
        assert (maps_HLL[:, ~np.tri(len(TOKENS), dtype=bool)] == 0).all()
        assert (maps_HLL[:, :, LAYOUT.value :: LAYOUT.transition_dim] == 0).all()


def test_reading_the_weights_leaves_no_hook_behind(model: TrajectoryTransformer) -> None:
    attention_weights(model, TOKENS, [0])
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_the_plot_names_layers_from_one(model: TrajectoryTransformer) -> None:
    svg = attention_plot(attention_weights(model, TOKENS, [0, 2]), LAYOUT.transition_dim).svg
    assert svg.count("<image") == 4
    assert "layer 1, head 1" in svg
    assert "layer 3, head 2" in svg
