import math

import pytest
import torch

from pipeline.tokens.layout import TransitionLayout
from pipeline.training.config import LossWeights
from pipeline.training.loss import LossFunction, Targets, report
from pipeline.training.windows import WindowBatch

LAYOUT = TransitionLayout.plain(observation_dim=1, action_dim=1, num_bins=3)  # observation, action, reward, value
WEIGHTS = LossWeights(observation=1, action=5, reward=2, value=3)


def make_targets(counted: list[bool]) -> Targets:
    tokens = torch.tensor([[[0, 1, 2, 0], [1, 1, 1, 1]]], dtype=torch.uint8)
    return Targets.of(WindowBatch(tokens, torch.tensor([counted])))


def test_inputs_are_all_tokens_but_the_last_and_targets_all_but_the_first() -> None:
    targets = make_targets([True, False])
    assert targets.inputs.tolist() == [[0, 1, 2, 0, 1, 1, 1]]
    assert targets.targets.tolist() == [[1, 2, 0, 1, 1, 1, 1]]
    assert targets.counted.tolist() == [[1, 1, 1, 0, 0, 0, 0]]


def test_uniform_logits_cost_the_logarithm_of_the_vocabulary_times_the_weights() -> None:
    loss = LossFunction(LAYOUT, 2, WEIGHTS, torch.device("cpu"))
    weighted, sums = loss(torch.zeros(1, 7, 4), make_targets([True, True]))
    # Targets: action, reward, value of the first transition, then all four of the second.
    assert weighted.item() == pytest.approx(math.log(4) * (5 + 2 + 3 + 1 + 5 + 2 + 3))
    numbers = report(sums, WEIGHTS)
    assert numbers["loss"] == pytest.approx(math.log(4) * 21 / 7)
    assert numbers["loss_observation"] == pytest.approx(math.log(4))
    assert sums[2].tolist() == [1, 2, 2, 2]


def test_what_is_not_counted_is_in_no_sum() -> None:
    loss = LossFunction(LAYOUT, 2, WEIGHTS, torch.device("cpu"))
    weighted, sums = loss(torch.zeros(1, 7, 4), make_targets([True, False]))
    assert weighted.item() == pytest.approx(math.log(4) * (5 + 2 + 3))
    numbers = report(sums, WEIGHTS, "validation_")
    assert numbers["validation_loss"] == pytest.approx(math.log(4) * 10 / 3)
    assert numbers["validation_loss_observation"] is None
    assert numbers["validation_accuracy_observation"] is None


def test_accuracy_counts_the_most_likely_token() -> None:
    logits = torch.zeros(1, 7, 4)
    for position, token in enumerate([1, 2, 0, 1, 0, 0, 1]):  # right, right, right, right, wrong, wrong, right
        logits[0, position, token] = 1
    _, sums = LossFunction(LAYOUT, 2, WEIGHTS, torch.device("cpu"))(logits, make_targets([True, True]))
    numbers = report(sums, WEIGHTS)
    kinds = ("observation", "action", "reward", "value")
    assert [numbers[f"accuracy_{kind}"] for kind in kinds] == [1, 0.5, 0.5, 1]
