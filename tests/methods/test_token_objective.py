import math
from dataclasses import replace

import pytest
import torch

from pipeline.data.table import TOKENS
from pipeline.methods.trajectory_transformer.config import LossWeights
from pipeline.methods.trajectory_transformer.objective import Targets, TokenObjective, flops_per_token
from pipeline.models.config import ModelConfig
from pipeline.models.trajectory_transformer import TrajectoryTransformer
from pipeline.tokens.layout import TransitionLayout
from pipeline.training.objective import measured
from pipeline.training.windows import Windows
from tests.training.tasks import MODEL

LAYOUT = TransitionLayout.plain(observation_dim=1, action_dim=1, num_bins=3)  # observation, action, reward, value
STOP = 3
WEIGHTS = LossWeights(observation=1, action=5, reward=2, value=3)


def make_windows(real: list[bool], terminated: bool = False) -> Windows:
    tokens = torch.tensor([[[0, 1, 2, 0], [1, 1, 1, 1]]], dtype=torch.uint8)
    return Windows({TOKENS: tokens}, torch.tensor([real]), torch.tensor([terminated]), torch.arange(2)[None])


def make_objective() -> TokenObjective:
    torch.manual_seed(1)
    settings = ModelConfig(layers=1, heads=2, width=8, window_transitions=2, dropout=0.0)
    return TokenObjective(TrajectoryTransformer(settings, LAYOUT), WEIGHTS)


def test_inputs_are_all_tokens_but_the_last_and_targets_all_but_the_first() -> None:
    targets = Targets.of(make_windows([True, True]), STOP)
    assert targets.inputs.tolist() == [[0, 1, 2, 0, 1, 1, 1]]
    assert targets.targets.tolist() == [[1, 2, 0, 1, 1, 1, 1]]
    assert targets.counted.tolist() == [[1, 1, 1, 1, 1, 1, 1]]


@pytest.mark.parametrize("terminated", [True, False])
def test_beyond_the_end_is_the_stop_token_which_counts_where_the_episode_terminated(terminated: bool) -> None:
    windows = make_windows([True, False], terminated)
    targets = Targets.of(windows, STOP)
    assert targets.inputs.tolist() == [[0, 1, 2, 0, STOP, STOP, STOP]]
    assert targets.targets.tolist() == [[1, 2, 0, STOP, STOP, STOP, STOP]]
    assert targets.counted.tolist() == [[1, 1, 1, *[terminated] * 4]]
    assert make_objective().counted(windows) == (7 if terminated else 3)


def test_uniform_logits_cost_the_logarithm_of_the_vocabulary_times_the_weights() -> None:
    objective = make_objective()
    weighted, sums = objective.loss(torch.zeros(1, 7, 4), Targets.of(make_windows([True, True]), STOP))
    # Targets: action, reward, value of the first transition, then all four of the second.
    assert weighted.item() == pytest.approx(math.log(4) * (5 + 2 + 3 + 1 + 5 + 2 + 3))
    numbers = measured(objective.measures, sums)
    assert numbers["loss"] == pytest.approx(math.log(4) * 21 / 7)
    assert numbers["loss_observation"] == pytest.approx(math.log(4))
    assert sums[:, 1].tolist() == [7, 1, 2, 2, 2, 1, 2, 2, 2]


def test_what_is_not_counted_is_in_no_sum() -> None:
    objective = make_objective()
    weighted, sums = objective.loss(torch.zeros(1, 7, 4), Targets.of(make_windows([True, False]), STOP))
    assert weighted.item() == pytest.approx(math.log(4) * (5 + 2 + 3))
    numbers = measured(objective.measures, sums, "validation_")
    assert numbers["validation_loss"] == pytest.approx(math.log(4) * 10 / 3)
    assert numbers["validation_loss_observation"] is None
    assert numbers["validation_accuracy_observation"] is None


def test_accuracy_counts_the_most_likely_token() -> None:
    objective, logits = make_objective(), torch.zeros(1, 7, 4)
    for position, token in enumerate([1, 2, 0, 1, 0, 0, 1]):  # right, right, right, right, wrong, wrong, right
        logits[0, position, token] = 1
    _, sums = objective.loss(logits, Targets.of(make_windows([True, True]), STOP))
    numbers = measured(objective.measures, sums)
    kinds = ("observation", "action", "reward", "value")
    assert [numbers[f"accuracy_{kind}"] for kind in kinds] == [1, 0.5, 0.5, 1]


@pytest.mark.parametrize("terminated", [True, False])
def test_what_lies_beyond_the_end_of_an_episode_changes_nothing(terminated: bool) -> None:
    """Another episode's rows, or repeated ones."""
    objective, windows = make_objective(), make_windows([True, False], terminated)
    others = windows[TOKENS].clone()
    others[:, 1] = torch.tensor([2, 0, 2, 1], dtype=torch.uint8)
    (ours, sums), (theirs, other_sums) = (
        objective(objective.model, batch) for batch in (windows, replace(windows, columns={TOKENS: others}))
    )
    assert torch.equal(ours, theirs)
    assert torch.equal(sums, other_sums)
    inside, inside_sums = objective(
        objective.model, replace(windows, columns={TOKENS: others}, real=windows.real | True)
    )
    assert not torch.equal(ours, inside)
    assert not torch.equal(sums, inside_sums)


def test_where_an_episode_was_truncated_only_its_own_tokens_are_learnt() -> None:
    objective, windows = make_objective(), make_windows([True, False])
    logits = objective.model(Targets.of(windows, STOP).inputs).float()
    own = torch.nn.functional.cross_entropy(logits[0, :3], torch.tensor([1, 2, 0]), reduction="none")
    weighted, sums = objective(objective.model, windows)
    assert weighted.item() == pytest.approx((own * torch.tensor([5, 2, 3])).sum().item())
    assert sums[:5, 0].tolist() == pytest.approx([weighted.item(), 0, *own.tolist()])
    assert sums[:, 1].tolist() == [3, 0, 1, 1, 1, 0, 1, 1, 1]


def test_the_operations_of_a_token_are_those_of_its_products() -> None:
    """One block of width 16, 11 bins with the stop token; 19 inputs, of which every fifth is a value that none sees."""
    model = TrajectoryTransformer(MODEL, TransitionLayout.plain(observation_dim=2, action_dim=1, num_bins=10))
    block = 16 * 48 + 16 * 16 + 2 * 16 * 64
    keys = sum((position + 1) - (position + 1) // 5 for position in range(19)) / 19
    forward = 2 * block + 2 * 11 * 16 + 4 * 16 * keys
    assert flops_per_token(model) == pytest.approx(3 * forward)
    assert TokenObjective(model, WEIGHTS).flops_per_window == pytest.approx(19 * 3 * forward)
