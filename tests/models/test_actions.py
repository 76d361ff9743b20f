import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch.nn import functional

from pipeline.data.spaces import Spaces
from pipeline.models.actions import ActionBounds, ActionEmbedding, ActionHead
from tests.models.released import discrete_spaces, spaces

SKEWED = Spaces.plain(3, 2).model_copy(update={"action_low": (-2.0, 0.1), "action_high": (6.0, 0.7)})
"""Middles 2 and 0.4, half ranges 4 and 0.3."""


def test_actions_are_embedded_where_their_bounds_are_minus_one_and_one() -> None:
    embedding = ActionEmbedding(SKEWED, 5)
    actions = torch.tensor([[-2.0, 0.7], [4.0, 0.4]])
    expected = embedding.embedding(torch.tensor([[-1.0, 1.0], [0.5, 0.0]]))
    torch.testing.assert_close(embedding(actions), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("plain", [spaces(3, 2), Spaces.plain(3, 2)])
def test_actions_of_unit_or_no_bounds_are_embedded_as_they_are(plain: Spaces) -> None:
    embedding, actions = ActionEmbedding(plain, 5), torch.randn(4, 7, 2)
    assert torch.equal(embedding(actions), embedding.embedding(actions))


def test_each_choice_has_a_row() -> None:
    embedding = ActionEmbedding(discrete_spaces(3, 4), 5)
    rows = embedding(torch.tensor([[[2.0], [0.0]], [[3.0], [2.0]]]))
    assert torch.equal(rows, embedding.embedding.weight[torch.tensor([[2, 0], [3, 2]])])


def test_predicted_actions_reach_their_bounds_and_never_pass_them() -> None:
    head, x = ActionHead(SKEWED, 5), 1e4 * torch.randn(200, 5)
    predicted = head(x)
    expected = torch.tensor([2.0, 0.4]) + torch.tensor([4.0, 0.3]) * torch.tanh(head.linear(x))
    torch.testing.assert_close(predicted, expected, rtol=0, atol=1e-6)
    assert predicted.amin(0).tolist() == torch.tensor([-2.0, 0.1]).tolist()
    assert predicted.amax(0).tolist() == torch.tensor([6.0, 0.7]).tolist()


def test_predicted_actions_of_unit_bounds_are_the_tanh_alone() -> None:
    head, x = ActionHead(spaces(3, 2), 5), torch.randn(4, 7, 5)
    assert torch.equal(head(x), torch.tanh(head.linear(x)))


def test_predicted_actions_without_bounds_are_not_squeezed() -> None:
    head, x = ActionHead(Spaces.plain(3, 2), 5), torch.randn(4, 7, 5)
    assert torch.equal(head(x), head.linear(x))


def test_errors_are_squares_in_half_ranges() -> None:
    errors = ActionHead(SKEWED, 5).action_errors(torch.tensor([[2.0, 0.1]]), torch.tensor([[4.0, 0.7]]))
    torch.testing.assert_close(errors, torch.tensor([[0.25, 4.0]]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("plain", [spaces(3, 2), Spaces.plain(3, 2)])
def test_errors_of_unit_or_no_bounds_are_the_plain_squares(plain: Spaces) -> None:
    predicted, actions = torch.randn(4, 7, 2), torch.randn(4, 7, 2)
    assert torch.equal(ActionHead(plain, 5).action_errors(predicted, actions), (predicted - actions) ** 2)


def test_errors_of_choices_are_the_cross_entropy() -> None:
    head = ActionHead(discrete_spaces(3, 4), 5)
    logits, actions = head(torch.randn(2, 7, 5)), torch.randint(0, 4, (2, 7, 1))
    errors = head.action_errors(logits, actions.float())
    expected = functional.cross_entropy(logits.movedim(-1, 1), actions[..., 0], reduction="none")
    assert (logits.shape, errors.shape) == ((2, 7, 4), (2, 7, 1))
    torch.testing.assert_close(errors[..., 0], expected)


@pytest.mark.parametrize("kind", [spaces(3, 2), Spaces.plain(3, 2), discrete_spaces(3, 4)])
def test_outputs_and_errors_are_float32_under_automatic_casting(kind: Spaces) -> None:
    head, x = ActionHead(kind, 5), torch.randn(2, 7, 5)
    with torch.autocast("cpu", torch.bfloat16):
        predicted = head(x)
        errors = head.action_errors(predicted.bfloat16(), torch.zeros(2, 7, kind.action_dim))
    assert predicted.dtype is errors.dtype is torch.float32
    assert torch.equal(errors, head.action_errors(predicted.bfloat16().float(), torch.zeros(2, 7, kind.action_dim)))


def test_double_precision_is_kept() -> None:
    head = ActionHead(Spaces.plain(3, 2), 5).double()
    predicted = head(torch.randn(2, 5, dtype=torch.float64))
    assert predicted.dtype is head.action_errors(predicted, predicted).dtype is torch.float64


def test_a_column_with_one_action_only_is_that_action_and_has_finite_errors() -> None:
    fixed = Spaces.plain(3, 2).model_copy(update={"action_low": (-1.0, 3.0), "action_high": (1.0, 3.0)})
    head, actions = ActionHead(fixed, 5), torch.tensor([[0.5, 3.0]])
    predicted = head(torch.randn(1, 5))
    assert predicted[0, 1] == 3
    assert head.action_errors(predicted, actions)[0, 1] == 0
    assert ActionBounds(fixed).inside(actions).tolist() == [[0.5, 0.0]]


def test_every_whole_action_has_as_much_of_what_a_network_can_say() -> None:
    whole = Spaces.of(Box(-1, 1, (3,)), Box(np.array([0, -3]), np.array([20, -2]), dtype=np.int32))
    inside = torch.linspace(-1, 1, 2 * 2100 + 1)[1::2, None].expand(-1, 2)
    actions = np.array([whole.nearest_action(row) for row in ActionBounds(whole).outside(inside).double().numpy()])
    assert np.unique(actions[:, 0], return_counts=True)[1].tolist() == [100] * 21
    assert np.unique(actions[:, 1], return_counts=True)[1].tolist() == [1050] * 2
    # The outer ones are not where the tanh would need to be infinite.
    assert ActionBounds(whole).inside(torch.tensor([[0.0, -2.0]])).tolist() == [pytest.approx([-20 / 21, 0.5])]


def test_bounds_are_not_stored_with_the_weights() -> None:
    assert set(ActionHead(SKEWED, 5).state_dict()) == {"linear.weight", "linear.bias"}
    assert set(ActionEmbedding(SKEWED, 5).state_dict()) == {"embedding.weight", "embedding.bias"}
