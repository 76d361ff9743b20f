"""What the Decision Transformer is asked for, what it sees while it acts, and how it chooses."""

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.configuration import differences
from pipeline.data.statistics import ReturnStatistics
from pipeline.errors import ConfigError
from pipeline.methods.action_choice import ActionChoice
from pipeline.methods.decision_transformer.config import DecisionTransformerConfig, ReturnConditioning
from pipeline.methods.registry import METHODS
from pipeline.methods.sequence import SequencePolicy
from pipeline.planning.config import PlanningConfig
from tests.evaluation.tiny_run import tiny_manifest
from tests.methods.tiny import CONTINUOUS, DISCRETE

METHOD = METHODS["decision_transformer"]


class Seen(torch.nn.Module):
    """Stands for the network: keeps what it is given, and predicts how many steps it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []

    def act(self, *inputs: torch.Tensor | None) -> torch.Tensor:
        self.calls.append(inputs)
        assert inputs[0] is not None
        return torch.tensor([[float(inputs[0].shape[1])]])


def manifest_of(returns: list[float]) -> Any:
    values, lengths, ends = np.array(returns), np.arange(len(returns)) + 3, np.ones(len(returns), bool)
    entry = ReturnStatistics.of("made", values, lengths, ends, ~ends, dropped=0)
    manifest = tiny_manifest()
    return manifest.model_copy(update={"statistics": manifest.statistics.model_copy(update={"returns": (entry,)})})


def rows(returns: list[float], **settings: Any) -> dict[str, ReturnConditioning]:
    config = DecisionTransformerConfig(**settings)
    found = METHOD.rows("decision_transformer", config, PlanningConfig(), manifest_of(returns))
    return {row.name: row.acting for row in found}


def test_it_is_asked_for_the_best_return_of_the_data_and_a_half_of_it() -> None:
    found = rows([10.0, 3534.6])
    # By name: the numbers differ between data sets and seeds, whose rows are compared.
    assert {name: acting.target_return for name, acting in found.items()} == {
        "decision_transformer@best": 3534.6,
        "decision_transformer@half": 1767.3,
    }


def test_of_returns_below_zero_the_second_target_is_the_mean() -> None:
    """A half of the best one would be better than any episode of the data."""
    found = rows([-30.0, -4.0])
    assert {name: acting.target_return for name, acting in found.items()} == {
        "decision_transformer@best": -4.0,
        "decision_transformer@mean": -17.0,
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [(7.5, [7.5]), ((100.0, 50.25, 100.0), [100.0, 50.25]), ((1 / 3,), [1 / 3])],
)
def test_targets_that_are_given_are_rows_each_once(given: Any, expected: list[float]) -> None:
    found = rows([1.0, 2.0], target_returns=given, acting_steps=5)
    assert [acting.target_return for acting in found.values()] == expected
    assert [float(name.partition("@")[2]) for name in found] == expected
    assert {acting.context_steps for acting in found.values()} == {5}


def test_the_target_is_no_part_of_the_training() -> None:
    """Else another target would want another training."""
    one, other = (DecisionTransformerConfig(target_returns=target) for target in (1.0, 2.0))
    assert one.identity() == other.identity()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"acting_steps": 21}, "acting_steps is 21; expected at most decision_transformer.context_steps, 20"),
        ({"heads": 3}, "heads is 3; expected a divisor"),
        ({"target_returns": ()}, "target_returns is empty"),
        ({"target_returns": float("inf")}, "finite"),
        ({"target_returns": (1.0, float("nan"))}, "finite"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DecisionTransformerConfig(**settings)


def test_a_model_sees_no_more_steps_than_it_was_trained_on() -> None:
    acting = ReturnConditioning(target_return=1.0, context_steps=9)
    METHOD.require_acting(acting, DecisionTransformerConfig(context_steps=9))
    with pytest.raises(ConfigError, match="context_steps is 9 while acting; expected at most 8"):
        METHOD.require_acting(acting, DecisionTransformerConfig(context_steps=8))


def play(rewards: list[float], context_steps: int, target: float | None) -> Seen:
    model = Seen()
    policy = SequencePolicy(model, CONTINUOUS, 2, "cpu", context_steps, True, target)  # type: ignore[arg-type]
    policy.reset(1, seed=0)
    for step, reward in enumerate(rewards):
        decision = policy.act({1: np.array([step, -step], dtype=np.float64)})[1]
        policy.record(1, decision.action, reward)
    return model


def test_it_sees_its_last_steps_and_the_return_that_is_still_to_come() -> None:
    model = play([1.0, 2.0, 0.5, 4.0], context_steps=3, target=10.0)
    observations, actions, returns, steps = model.calls[-1]
    assert observations.tolist() == [[[1, -1], [2, -2], [3, -3]]]
    assert actions.tolist() == [[[2], [3], [0]]]  # the third is not yet known
    assert returns.tolist() == [[9, 7, 6.5]]
    assert steps.tolist() == [[1, 2, 3]]
    assert [call[0].shape[1] for call in model.calls] == [1, 2, 3, 3]


def test_what_is_asked_for_may_go_below_zero() -> None:
    returns = play([5.0, 5.0, 0.0], context_steps=2, target=4.0).calls[-1][2]
    assert returns.tolist() == [[-1, -6]]


def test_without_rewards_the_return_asked_for_stays() -> None:
    """As where the data's rewards were delayed: the policy is told of none."""
    assert play([0.0, 0.0, 0.0], context_steps=3, target=4.0).calls[-1][2].tolist() == [[4, 4, 4]]


def test_a_model_that_is_asked_for_nothing_gets_no_returns() -> None:
    assert play([1.0, 1.0], context_steps=3, target=None).calls[-1][2] is None


def test_an_episode_forgets_the_one_before_it_in_its_slot() -> None:
    model = Seen()
    policy = SequencePolicy(model, CONTINUOUS, 1, "cpu", 3, True, 10.0)  # type: ignore[arg-type]
    for observation in (np.zeros(2), np.ones(2)):
        policy.reset(0, seed=0)
        policy.record(0, policy.act({0: observation})[0].action, 3.0)
    observations, _, returns, steps = model.calls[-1]
    assert (observations.tolist(), returns.tolist(), steps.tolist()) == ([[[1, 1]]], [[10]], [[0]])


def test_discrete_actions_are_drawn_as_often_as_they_are_likely() -> None:
    choose = ActionChoice(DISCRETE, sample=True, seed=3)
    drawn = [int(choose(torch.tensor([0.2, 0.5, 0.3]).log())[0]) for _ in range(3000)]
    # 4 standard deviations of the count of the most likely one.
    assert np.bincount(drawn) / 3000 == pytest.approx([0.2, 0.5, 0.3], abs=0.037)
    again = ActionChoice(DISCRETE, sample=True, seed=3)
    assert [int(again(torch.tensor([0.2, 0.5, 0.3]).log())[0]) for _ in range(3000)] == drawn


def test_the_most_likely_action_is_taken_where_none_is_drawn() -> None:
    choose = ActionChoice(DISCRETE, sample=False, seed=3)
    assert {int(choose(torch.tensor([0.2, 0.5, 0.3]).log())[0]) for _ in range(50)} == {1}


def test_a_sweep_may_change_the_target_and_the_steps_that_are_seen() -> None:
    settings = DecisionTransformerConfig(context_steps=8)
    swept = METHOD.swept(settings, PlanningConfig(), manifest_of([1.0, 40.0]))
    assert swept.space == {
        "decision_transformer.target_return": [40.0, 20.0],
        "decision_transformer.context_steps": [1, 4, 8],
    }
    swept.check(swept.space, {})
    setting = {"decision_transformer.target_return": 30.0, "decision_transformer.context_steps": 4}
    assert swept.applied(setting) == ReturnConditioning(target_return=30.0, context_steps=4)
    # What chosen.yaml says is what evaluates the setting.
    chosen = DecisionTransformerConfig.model_validate({**settings.model_dump(), **swept.stored(setting)})
    row = METHOD.rows("decision_transformer", chosen, PlanningConfig(), manifest_of([1.0, 40.0]))[0]
    assert row.acting == swept.applied(setting)
    with pytest.raises(ConfigError, match=r"tries 0 for decision_transformer.context_steps"):
        swept.check({"decision_transformer.context_steps": [0]}, {})


@pytest.mark.parametrize(
    ("ours", "returns", "told"),
    [
        ({}, [10.0, 3000.0], None),
        ({}, [10.0, 300.0], "return_scale: was 3000.0, is 300.0"),
        ({"return_scale": 3000.0}, [10.0, 300.0], None),  # said, not derived
        ({}, [10.0, 11.0, 3000.0], "max_episode_steps: was 4, is 5"),
        ({"dropout": 0.3, "target_returns": 5.0}, [10.0, 3000.0], None),
    ],
)
def test_weights_mean_the_same_only_where_the_data_decides_the_same(
    ours: dict[str, Any], returns: list[float], told: str | None
) -> None:
    """The scale of returns and the rows over steps follow from the data where the settings leave them open."""
    config = DecisionTransformerConfig()
    given = config.model_copy(update=ours)
    theirs = config.of_the_model() | METHOD.inputs(config, manifest_of([10.0, 3000.0]))
    mine = given.of_the_model() | METHOD.inputs(given, manifest_of(returns))
    assert (told in "; ".join(differences(theirs, mine))) if told else theirs == mine


def test_a_model_acts_with_the_steps_that_it_was_trained_on() -> None:
    trained = DecisionTransformerConfig(context_steps=50, layers=1)
    acting = trained.acting_as(DecisionTransformerConfig(target_returns=7.0))
    assert acting == DecisionTransformerConfig(context_steps=50, layers=1, target_returns=7.0)
    short = DecisionTransformerConfig(context_steps=5)
    with pytest.raises(ConfigError, match=r"acting_steps is 9; expected at most decision_transformer.context_steps, 5"):
        short.acting_as(DecisionTransformerConfig(acting_steps=9))
