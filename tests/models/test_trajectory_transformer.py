import math
import subprocess
import sys

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.models.config import ModelConfig
from pipeline.models.trajectory_transformer import TrajectoryTransformer, sinusoids
from pipeline.references.model import reference_logits
from pipeline.tokens.layout import TransitionLayout

LAYOUT = TransitionLayout(2, 1, 5, (5, 3, 4, 5, 5), ("x", "y"))
CONFIG = ModelConfig(layers=2, heads=2, width=16, window_transitions=3, dropout=0.0)


@pytest.fixture
def model() -> TrajectoryTransformer:
    return make_model(CONFIG)


def make_model(config: ModelConfig) -> TrajectoryTransformer:
    torch.manual_seed(0)
    model = TrajectoryTransformer(config, LAYOUT).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model


def _tokens(length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 3, (2, length), generator=generator)


def test_there_is_one_row_of_logits_for_each_input_token(model):
    assert model(_tokens(14)).shape == (2, 14, 6)


def test_tokens_may_be_bytes(model):
    torch.testing.assert_close(model(_tokens(14).to(torch.uint8)), model(_tokens(14)))


@pytest.mark.parametrize("changed", range(1, 14))
def test_a_changed_token_leaves_all_earlier_logits_as_they_were(model, changed):
    tokens = _tokens(14)
    other = tokens.clone()
    other[:, changed] = (other[:, changed] + 1) % 3
    before, after = model(tokens), model(other)
    assert torch.equal(before[:, :changed], after[:, :changed])
    assert not torch.allclose(before[:, changed], after[:, changed])


@pytest.mark.parametrize("value_position", [4, 9])
def test_a_value_token_changes_its_own_logits_and_no_others(model, value_position):
    tokens = _tokens(14)
    other = tokens.clone()
    other[:, value_position] = (other[:, value_position] + 1) % 3
    same = (model(tokens) == model(other)).all(dim=(0, 2))
    assert same.tolist() == [position != value_position for position in range(14)]


def test_every_other_token_changes_the_logits_of_the_last_position(model):
    tokens = _tokens(14)
    for position in (0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13):
        other = tokens.clone()
        other[:, position] = (other[:, position] + 1) % 3
        assert not torch.equal(model(tokens)[:, -1], model(other)[:, -1]), position


def test_bins_that_a_dimension_lacks_are_impossible_and_the_stop_token_is_not(model):
    possible = torch.isfinite(model(_tokens(14))).all(dim=0)
    # The input at dimension d predicts d + 1: the head of dimension 0 speaks of the three bins of "y".
    assert possible[0].tolist() == [True, True, True, False, False, True]
    assert possible[1].tolist() == [True, True, True, True, False, True]
    assert possible[2].all()
    assert possible[4].all()
    assert possible[5].tolist() == possible[0].tolist()


def test_the_same_token_in_another_dimension_has_another_embedding_but_stop_is_shared(model):
    rows = model.embedding_rows(torch.tensor([[1, 1, 5, 5, 0, 1]]))
    assert rows.tolist() == [[1, 6, 25, 25, 20, 1]]


def test_each_position_uses_the_head_of_its_dimension(model):
    hidden = torch.randn(1, 7, 16, dtype=torch.float64)
    logits = model.head(hidden)
    for position in range(7):
        expected = model.head.weight[position % 5] @ hidden[0, position]
        torch.testing.assert_close(logits[0, position], expected)


def test_every_parameter_gets_a_gradient(model):
    tokens = torch.arange(14).remainder(3).repeat(2, 1)
    logits = model(tokens)
    logits[torch.isfinite(logits)].square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_all_gradients_are_finite_although_some_logits_are_minus_infinity(model):
    tokens = _tokens(15)
    loss = torch.nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize(("observation_dim", "action_dim", "millions"), [(11, 3, 1.225), (17, 6, 1.468)])
def test_the_papers_models_have_their_numbers_of_parameters(observation_dim, action_dim, millions):
    layout = TransitionLayout.plain(observation_dim, action_dim, 100)
    model = TrajectoryTransformer(ModelConfig(window_transitions=10), layout)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, abs=1e-3)


def test_the_state_holds_parameters_only(model):
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


def test_an_input_beyond_the_window_is_refused_with_the_arithmetic(model):
    with pytest.raises(ConfigError, match=r"tokens has 15 positions; expected at most 14 = 3 transitions \* 5 tokens"):
        model(_tokens(15))


def test_models_and_planning_do_not_import_ray():
    code = (
        "import sys, pipeline.models.trajectory_transformer, pipeline.planning.config; assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("width", [4, 5])
def test_sinusoids_are_those_of_hand_made_arithmetic(width):
    angles = [[3.0, 3 * 10_000 ** (-2 / width), 3 * 10_000 ** (-4 / width)]]
    expected = [f(angle) for angle in angles[0] for f in (math.sin, math.cos)][:width]
    rows = sinusoids(4, width)
    assert rows.shape == (4, width)
    assert rows[3].tolist() == pytest.approx([0.02 * math.sqrt(2) * number for number in expected], rel=1e-5)


def test_fixed_positions_are_told_apart_but_neither_learnt_nor_stored():
    model = make_model(CONFIG.model_copy(update={"positions": "sinusoidal"}))
    logits = model(torch.zeros(1, 14, dtype=torch.long))[0]
    assert not torch.allclose(logits[0], logits[5])
    assert "position_embedding" not in dict(model.named_parameters()) | model.state_dict()
    assert model.double().position_embedding.dtype is torch.float64


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_the_logits_are_those_of_the_slow_reference(positions):
    model = make_model(CONFIG.model_copy(update={"positions": positions}))
    tokens = [0, 1, 2, 3, 4, 5, 1, 2, 0, 1, 1, 2, 5, 5]
    torch.testing.assert_close(model(torch.tensor([tokens]))[0], torch.from_numpy(reference_logits(model, tokens)))
