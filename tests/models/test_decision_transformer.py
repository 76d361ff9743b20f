"""The expected numbers are those of the released gym code at e2d82e6 (MIT): `released` says what they are."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.data.spaces import Spaces
from pipeline.errors import ConfigError
from pipeline.models.decision_transformer import DecisionTransformer
from tests.models.released import (
    ACTION_DIM,
    CONTEXT_STEPS,
    LAYERS,
    MAX_EPISODE_STEPS,
    NUMBERS,
    OBSERVATION_DIM,
    UPDATED_ON,
    WIDTH,
    Shape,
    Windows,
    discrete_spaces,
    released_places,
    spaces,
    tensor,
    windows,
)

NAMES = {
    "transformer.ln_f": "norm",
    "embed_timestep": "step_embedding",
    "embed_return": "return_embedding",
    "embed_state": "observation_embedding",
    "embed_action": "action_embedding.embedding",
    "embed_ln": "embedding_norm",
    "predict_action.0": "action_head.linear",
}
BLOCK_NAMES = {
    "ln_1": "attention_norm",
    "attn.c_attn": "attention.qkv",
    "attn.c_proj": "attention.projection",
    "ln_2": "mlp_norm",
    "mlp.c_fc": "mlp.expand",
    "mlp.c_proj": "mlp.contract",
}


def released_weights(prefix: str) -> dict[str, Tensor]:
    """The released code's weights under our names and in our shapes."""
    names = NAMES | {
        f"transformer.h.{i}.{theirs}": f"blocks.{i}.{ours}"
        for i in range(LAYERS)
        for theirs, ours in BLOCK_NAMES.items()
    }
    weights: dict[str, Tensor] = {}
    for theirs, ours in names.items():
        for part in ("weight", "bias"):
            if f"{prefix}.{theirs}.{part}" in NUMBERS:
                weight = tensor(f"{prefix}.{theirs}.{part}")
                transposed = ".h." in theirs and weight.dim() == 2
                weights[f"{ours}.{part}"] = weight.T if transposed else weight
    return weights


def released_model(return_scale: float = NUMBERS["batch_scale"].item()) -> DecisionTransformer:
    mean, deviation = tensor("state_mean"), tensor("state_std")
    model = DecisionTransformer(Shape(), spaces(), mean, deviation, return_scale, conditions_on_return=True)
    buffers = {"observation_mean": mean, "observation_deviation": deviation}
    model.load_state_dict(released_weights("w") | buffers)
    return model.eval()


def make_model(
    shape: Shape | None = None, of: Spaces | None = None, conditions_on_return: bool = True
) -> DecisionTransformer:
    """Double precision and large random weights, so that everything matters to everything it may matter to."""
    torch.manual_seed(0)
    mean, deviation = torch.tensor([0.5, -1.0, 0.0]), torch.tensor([1.0, 2.0, 0.5])
    model = DecisionTransformer(shape or Shape(heads=2), of or spaces(), mean, deviation, 10.0, conditions_on_return)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model.double().eval()


def make_inputs(steps: int = CONTEXT_STEPS, action_dim: int = ACTION_DIM) -> Windows:
    torch.manual_seed(1)
    observations, actions = (torch.randn(2, steps, dim, dtype=torch.float64) for dim in (OBSERVATION_DIM, action_dim))
    returns = 20 * torch.randn(2, steps, dtype=torch.float64)
    timesteps = torch.arange(steps) + torch.tensor([[0], [30]])
    return Windows(observations, actions, returns, timesteps, torch.ones(2, steps, dtype=torch.bool))


def predictions(model: DecisionTransformer, given: Windows) -> Tensor:
    observations, actions, returns, timesteps = given.inputs
    predicted: Tensor = model(observations, actions, returns if model.conditions_on_return else None, timesteps)
    return predicted


def last_action(model: DecisionTransformer, given: Windows) -> Tensor:
    observations, actions, returns, timesteps = given.inputs
    return model.act(observations, actions, returns if model.conditions_on_return else None, timesteps)


@pytest.mark.parametrize("batch", ["full", "padded"])
def test_actions_are_those_of_the_released_code_whose_windows_are_filled_up_on_the_other_side(batch: str) -> None:
    given = windows(batch)
    expected = tensor(f"forward_{batch}.actions")[released_places(batch)]
    torch.testing.assert_close(predictions(released_model(), given)[given.real], expected, rtol=0, atol=1e-5)


def test_three_updates_are_those_of_the_released_code() -> None:
    model = released_model()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.999), weight_decay=0.1)
    for i, batch in enumerate(UPDATED_ON):
        given = windows(batch)
        optimizer.param_groups[0]["lr"] = 1e-2 * min((i + 1) / 4, 1)
        optimizer.zero_grad()
        loss = model.action_head.action_errors(predictions(model, given), given.actions)[given.real].mean()
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()
        assert loss.item() == pytest.approx(NUMBERS["trained.losses"][i], abs=1e-5)
        assert norm.item() == pytest.approx(NUMBERS["trained.norms"][i], abs=1e-5)
        assert optimizer.param_groups[0]["lr"] == NUMBERS["trained.rates"][i]
    parameters = dict(model.named_parameters())
    expected = released_weights("trained.w")
    assert parameters.keys() == expected.keys()
    for name, parameter in parameters.items():
        difference = (parameter - expected[name]).abs()
        if name.endswith("qkv.bias"):
            # The keys' bias has no gradient but rounding, of which Adam makes whole steps.
            difference[WIDTH : 2 * WIDTH] = 0
        assert difference.max() < 1e-5, name


@pytest.mark.parametrize("rewards", ["normal", "delayed"])
def test_an_episode_is_that_of_the_released_code(rewards: str) -> None:
    """Twelve steps through a window of six; delayed rewards leave the return that is asked for as it is."""
    expected = {key.removeprefix(f"episode_{rewards}."): value for key, value in NUMBERS.items()}
    model = released_model(NUMBERS["scale"].item())
    observations, actions, returns = [NUMBERS["env.start"]], np.zeros((0, ACTION_DIM)), [expected["target"].item()]
    for step, reward in enumerate(NUMBERS["env.rewards"]):
        padded = np.concatenate([actions, np.zeros((1, ACTION_DIM))])
        history = [np.array(observations), padded, np.array(returns), np.arange(step + 1)]
        given = [torch.from_numpy(part[None, -CONTEXT_STEPS:]) for part in history]
        with torch.inference_mode():
            action = model.act(given[0].float(), given[1].float(), given[2].float(), given[3])[0].numpy()
        actions = np.concatenate([actions, action[None]])
        state = observations[-1] @ NUMBERS["env.P"] + action @ NUMBERS["env.Q"] + step / 10
        observations.append(np.tanh(state))
        returns.append(returns[-1] - (reward if rewards == "normal" else 0))
    np.testing.assert_allclose(actions, expected["actions"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.array(returns[:-1]) / NUMBERS["scale"], expected["rtg"], rtol=0, atol=1e-5)
    normal = (np.array(observations[:-1]) - NUMBERS["state_mean"]) / NUMBERS["state_std"]
    np.testing.assert_allclose(normal, expected["normalised_states"], rtol=0, atol=1e-5)
    assert len(actions) == expected["length"]


def slow_predictions(model: DecisionTransformer, given: Windows, row: int) -> Tensor:
    """Token by token, with every block computing every position."""
    tokens, places = [], []
    for t in range(given.observations.shape[1]):
        step = model.step_embedding.weight[min(given.timesteps[row, t], MAX_EPISODE_STEPS - 1)]
        if model.conditions_on_return:
            tokens.append(model.return_embedding(given.returns_to_go[row, t, None] / 10) + step)
        normal = (given.observations[row, t] - model.observation_mean) / model.observation_deviation
        places.append(len(tokens))
        tokens.append(model.observation_embedding(normal) + step)
        tokens.append(model.action_embedding(given.actions[row, t]) + step)
    x = model.embedding_norm(torch.stack(tokens))[None]
    for block in model.blocks:
        x = block(x, torch.ones(len(tokens), len(tokens), dtype=torch.bool).tril())
    predicted: Tensor = model.action_head(model.norm(x[0, places]))
    return predicted


@pytest.mark.parametrize("conditions_on_return", [True, False])
@pytest.mark.parametrize("layers", [1, 3])
def test_actions_are_those_of_tokens_that_are_laid_out_one_by_one(layers: int, conditions_on_return: bool) -> None:
    model = make_model(Shape(layers=layers, heads=2), conditions_on_return=conditions_on_return)
    given = make_inputs()
    for row in range(2):
        expected = slow_predictions(model, given, row)
        torch.testing.assert_close(predictions(model, given)[row], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("conditions_on_return", [True, False])
@pytest.mark.parametrize("steps", [1, 2, CONTEXT_STEPS])
def test_acting_gives_the_last_of_all_actions(steps: int, conditions_on_return: bool) -> None:
    model, given = make_model(conditions_on_return=conditions_on_return).float(), make_inputs(steps).float()
    torch.testing.assert_close(last_action(model, given), predictions(model, given)[:, -1], rtol=0, atol=1e-6)


def test_acting_does_not_look_at_the_action_that_is_not_known_yet() -> None:
    model, given = make_model(), make_inputs()
    before = last_action(model, given)
    given.actions[:, -1] = 7
    assert torch.equal(last_action(model, given), before)


def test_what_lies_behind_the_last_real_step_changes_nothing_at_real_steps() -> None:
    model, given = released_model(), windows("padded")
    before = predictions(model, given)
    assert not given.real.all()
    for part, fill in zip(given.inputs, (1e3, -10, 1e4, 10**6), strict=True):
        part[~given.real] = fill
    after = predictions(model, given)
    assert torch.equal(after[given.real], before[given.real])
    assert not torch.allclose(after[~given.real], before[~given.real])


def test_a_short_window_is_the_same_alone_as_filled_up() -> None:
    model, given = make_model(), make_inputs()
    short = Windows(*(part[:, :4] for part in (*given.inputs, given.real)))
    torch.testing.assert_close(predictions(model, short), predictions(model, given)[:, :4])


@pytest.mark.parametrize(("part", "first_seen"), [(0, 0), (1, 1), (2, 0), (3, 0)])
@pytest.mark.parametrize("changed", range(CONTEXT_STEPS))
def test_a_change_is_seen_at_every_step_from_then_on_and_never_before(part: int, first_seen: int, changed: int) -> None:
    """Observations, returns and steps are seen at their own step, actions from the next one on."""
    model, given = make_model(), make_inputs()
    before = predictions(model, given)
    given.inputs[part][:, changed] += 3
    seen = (predictions(model, given) != before).any(-1)
    assert seen.tolist() == 2 * [[t >= changed + first_seen for t in range(CONTEXT_STEPS)]]


def test_steps_beyond_the_table_take_its_last_row() -> None:
    model, given = make_model(), make_inputs()
    given.timesteps[:] = MAX_EPISODE_STEPS - 1
    last = predictions(model, given)
    given.timesteps[:, 2] = MAX_EPISODE_STEPS + 5
    assert torch.equal(predictions(model, given), last)


@pytest.mark.parametrize("conditions_on_return", [True, False])
def test_discrete_actions_come_as_logits(conditions_on_return: bool) -> None:
    model = make_model(of=discrete_spaces(OBSERVATION_DIM, 4), conditions_on_return=conditions_on_return)
    given = make_inputs(action_dim=1)
    given.actions[:] = torch.tensor([0.0, 3, 1, 2, 2, 1])[:, None]
    logits = predictions(model, given)
    assert logits.shape == (2, CONTEXT_STEPS, 4)
    for row in range(2):
        torch.testing.assert_close(logits[row], slow_predictions(model, given, row))
    torch.testing.assert_close(last_action(model, given), logits[:, -1])


@pytest.mark.parametrize("of", [spaces(), discrete_spaces(OBSERVATION_DIM, 4)])
@pytest.mark.parametrize("conditions_on_return", [True, False])
def test_every_parameter_gets_a_gradient(of: Spaces, conditions_on_return: bool) -> None:
    model, given = make_model(of=of, conditions_on_return=conditions_on_return), make_inputs(action_dim=of.action_dim)
    if of.action_choices:
        given.actions[:] = 1
    torch.autograd.backward(predictions(model, given).square().sum())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("part", ["embedding_dropout", "blocks.0.attention", "blocks.1.residual_dropout"])
def test_dropout_is_on_the_embedding_the_attention_and_the_residual_branches(part: str) -> None:
    model, given = make_model(Shape(dropout=0.2)), make_inputs()
    plain = predictions(model, given)
    assert torch.equal(predictions(model, given), plain)
    model.get_submodule(part).training = True
    draws = [predictions(model, given) for _ in range(2)]
    assert not any(torch.allclose(a, b) for a, b in pairwise([plain, *draws]))


@pytest.mark.parametrize("of", [spaces(), discrete_spaces(OBSERVATION_DIM, 4)])
def test_half_precision_rounds_but_nothing_more(of: Spaces) -> None:
    """bfloat16 keeps 8 bits; the logits are about 3, and a prediction passes some ten products."""
    model, given = make_model(of=of).float(), make_inputs(action_dim=of.action_dim)
    if of.action_choices:
        given.actions[:] = 1
    exact = predictions(model, given.float())
    with torch.autocast("cpu", torch.bfloat16):
        rough = predictions(model, given.float())
    assert rough.dtype is torch.float32
    assert 0 < (rough - exact).abs().max() < 0.2


def test_weights_start_as_in_the_released_code() -> None:
    """Blocks from N(0, 0.02); embeddings and head as torch makes them."""
    torch.manual_seed(0)
    shape = Shape(width=128, max_episode_steps=1000)
    model = DecisionTransformer(shape, spaces(11, 3), np.zeros(11), np.ones(11), 1000.0, conditions_on_return=True)
    for name, parameter in model.blocks.named_parameters():
        if "norm" in name or name.endswith("bias"):
            assert (parameter == float("norm.weight" in name)).all(), name
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.03), name
            assert abs(parameter.mean().item()) < 1e-3, name
    assert model.step_embedding.weight.std().item() == pytest.approx(1, rel=0.02)
    embeddings = (model.return_embedding, model.observation_embedding, model.action_embedding.embedding)
    for linear in (*embeddings, model.action_head.linear):
        assert isinstance(linear, nn.Linear)
        assert linear.weight.abs().max().item() == pytest.approx(linear.in_features**-0.5, rel=0.03)
        assert linear.bias.any()


def test_the_papers_hopper_model_has_its_number_of_parameters() -> None:
    """727 695 in the released code, less the heads for observations and returns and the word table, never trained."""
    shape = Shape(layers=3, heads=1, width=128, context_steps=20, max_episode_steps=1000)
    model = DecisionTransformer(shape, spaces(11, 3), np.zeros(11), np.ones(11), 1000.0, conditions_on_return=True)
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert counted == 727_695 - (128 * 11 + 11) - (128 + 1) - 128 == 726_019
    assert sum(parameter.numel() for parameter in model.blocks.parameters()) == 594_816


def test_a_network_that_asks_for_no_return_lacks_its_embedding_only() -> None:
    names = [dict(make_model(conditions_on_return=on).named_parameters()).keys() for on in (True, False)]
    assert names[0] - names[1] == {"return_embedding.weight", "return_embedding.bias"}
    assert names[1] < names[0]


def test_the_state_holds_parameters_and_the_scale_of_observations() -> None:
    model = make_model()
    stored = {"observation_mean", "observation_deviation"}
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()} | stored
    fresh = DecisionTransformer(Shape(), spaces(), np.zeros(3), np.ones(3), 1.0, conditions_on_return=False)
    assert {fresh.state_dict()[name].dtype for name in stored} == {torch.float32}


@pytest.mark.parametrize("method", ["forward", "act"])
def test_a_window_beyond_the_context_is_refused(method: str) -> None:
    model, given = make_model(), make_inputs(CONTEXT_STEPS + 1)
    with pytest.raises(ConfigError, match=r"observations has 7 steps; expected at most 6\. Set context_steps higher"):
        getattr(model, method)(*given.inputs)


def test_returns_are_given_if_and_only_if_they_are_asked_for() -> None:
    given = make_inputs()
    observations, actions, returns, timesteps = given.inputs
    for model, other in ((make_model(), None), (make_model(conditions_on_return=False), returns)):
        with pytest.raises(AssertionError, match="returns_to_go goes with conditions_on_return"):
            model(observations, actions, other, timesteps)
