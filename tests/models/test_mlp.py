"""The expected numbers are those of the released gym code, whose MLP sees K stacked observations (see `released`)."""

import pytest
import torch
from torch import Tensor, nn

from pipeline.models.mlp import ActionMlp
from tests.models.released import (
    ACTION_DIM,
    CONTEXT_STEPS,
    OBSERVATION_DIM,
    UPDATED_ON,
    Shape,
    discrete_spaces,
    spaces,
    tensor,
    windows,
)

NAMES = {"model.0": "hidden.0", "model.3": "hidden.1", "model.6": "action_head.linear"}


def released_weights(prefix: str) -> dict[str, Tensor]:
    names = [(f"{theirs}.{part}", f"{ours}.{part}") for theirs, ours in NAMES.items() for part in ("weight", "bias")]
    return {ours: tensor(f"{prefix}.{theirs}") for theirs, ours in names}


def linears_of(model: ActionMlp) -> list[nn.Linear]:
    return [module for module in model.hidden if isinstance(module, nn.Linear)]


@pytest.fixture
def model() -> ActionMlp:
    mean, deviation = tensor("state_mean").repeat(CONTEXT_STEPS), tensor("state_std").repeat(CONTEXT_STEPS)
    model = ActionMlp(Shape(), spaces(CONTEXT_STEPS * OBSERVATION_DIM), mean, deviation)
    buffers = {"observation_mean": mean, "observation_deviation": deviation}
    model.load_state_dict(released_weights("bc.w") | buffers)
    return model


def last_steps(batch: str) -> tuple[Tensor, Tensor]:
    """Returns the stacked observations of each window, filled up on the left with zeros, and its last action."""
    given = windows(batch)
    lengths = given.real.sum(1).tolist()
    rows = [torch.roll(row, CONTEXT_STEPS - length, 0) for row, length in zip(given.observations, lengths, strict=True)]
    return torch.stack(rows).flatten(1), given.actions[range(len(lengths)), [length - 1 for length in lengths]]


def test_actions_are_those_of_the_released_code(model: ActionMlp) -> None:
    stacked, _ = last_steps("padded")
    torch.testing.assert_close(model(stacked), tensor("bc.actions")[:, 0], rtol=0, atol=1e-5)


def test_three_updates_are_those_of_the_released_code(model: ActionMlp) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.999), weight_decay=0.1)
    for i, batch in enumerate(UPDATED_ON):
        stacked, actions = last_steps(batch)
        optimizer.param_groups[0]["lr"] = 1e-2 * min((i + 1) / 4, 1)
        optimizer.zero_grad()
        loss = model.action_head.action_errors(model(stacked), actions).mean()
        torch.autograd.backward(loss)
        optimizer.step()
        assert loss.item() == pytest.approx(tensor("bc.trained.losses")[i].item(), abs=1e-5)
    parameters = dict(model.named_parameters())
    for name, expected in released_weights("bc.trained.w").items():
        torch.testing.assert_close(parameters[name], expected, rtol=0, atol=1e-5)


def test_each_observation_is_mapped_alone_whatever_the_shape_around_it() -> None:
    model = ActionMlp(Shape(layers=1), spaces(), torch.zeros(3), torch.ones(3)).double()
    observations = torch.randn(4, 5, OBSERVATION_DIM, dtype=torch.float64)
    actions = model(observations)
    assert actions.shape == (4, 5, ACTION_DIM)
    torch.testing.assert_close(actions[2, 3], model(observations[2, 3]))


def test_there_are_as_many_hidden_layers_as_asked_for_each_with_relu_and_dropout() -> None:
    model = ActionMlp(Shape(layers=3, dropout=0.25), spaces(), [0.0] * 3, [1.0] * 3)
    linears = linears_of(model)
    assert [linear.weight.shape for linear in linears] == [(16, 3), (16, 16), (16, 16)]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        linears[2].bias.copy_(torch.arange(16.0) - 8)
    seen: list[Tensor] = []
    model.action_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.train()(torch.ones(10_000, 3))
    assert seen[0][:, :9].abs().max() == 0
    assert sorted(set(seen[0][:, 15].tolist())) == [0, pytest.approx(7 / 0.75)]
    # Five standard errors.
    assert (seen[0][:, 15] == 0).float().mean().item() == pytest.approx(0.25, abs=0.022)
    model.eval()(torch.ones(1, 3))
    assert seen[1][0, 9:].tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_dropout_follows_every_hidden_layer() -> None:
    model = ActionMlp(Shape(layers=3, dropout=0.25), spaces(), [0.0] * 3, [1.0] * 3)
    calls: list[nn.Module] = []
    model.dropout.register_forward_hook(lambda module, *_: calls.append(module))
    model(torch.ones(1, 3))
    assert len(calls) == 3


def test_layers_start_as_torch_makes_them() -> None:
    torch.manual_seed(0)
    model = ActionMlp(Shape(width=200), spaces(50), torch.zeros(50), torch.ones(50))
    for linear in (*linears_of(model), model.action_head.linear):
        assert linear.weight.abs().max().item() == pytest.approx(linear.in_features**-0.5, rel=0.02)
        assert linear.bias.abs().max() > 0


def test_discrete_actions_come_as_logits() -> None:
    assert ActionMlp(Shape(), discrete_spaces(3, 4), [0.0] * 3, [1.0] * 3)(torch.ones(2, 5, 3)).shape == (2, 5, 4)


def test_every_parameter_gets_a_gradient(model: ActionMlp) -> None:
    torch.autograd.backward(model(torch.randn(50, CONTEXT_STEPS * OBSERVATION_DIM)).square().sum())
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_the_scale_of_observations_is_stored_with_the_weights_as_float32() -> None:
    model = ActionMlp(Shape(), spaces(), torch.arange(3, dtype=torch.float64), [1.0, 2.0, 3.0])
    state = model.state_dict()
    assert (state["observation_mean"].tolist(), state["observation_deviation"].tolist()) == ([0, 1, 2], [1, 2, 3])
    assert state["observation_mean"].dtype is state["observation_deviation"].dtype is torch.float32
