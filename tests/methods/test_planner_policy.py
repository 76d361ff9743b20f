import math

import numpy as np
import pytest

from pipeline.acting import RandomPolicy
from pipeline.data.spaces import Spaces
from pipeline.errors import EvaluationError
from pipeline.methods.trajectory_transformer.policy import PlannerPolicy
from pipeline.planning.config import PlanningConfig
from pipeline.planning.noise import plan_noise
from pipeline.references.planner import ReferencePlanner
from tests.planning.scenes import LAYOUT, random_discretizer, random_model

CONFIG = PlanningConfig(beam_width=4, horizon=3, context_transitions=2)
BOX = Spaces(
    observation_sizes=(3,),
    observation_columns=(0, 1, 2),
    action_shape=(2,),
    action_low=(-1.0, 0.0),
    action_high=(1.0, 5.0),
)


def observed(seed: int, step: int) -> np.ndarray:
    """What a made-up environment shows: it depends on the episode and its step alone."""
    return np.random.default_rng([seed, step]).normal(size=3)


def run(policy, seeds: dict[int, int], steps: int) -> dict[int, list]:
    """Runs one episode in each given slot, and returns their decisions."""
    decisions = {slot: [] for slot in seeds}
    for slot, seed in seeds.items():
        policy.reset(slot, seed)
    for step in range(steps):
        made = policy.act({slot: observed(seed, step) for slot, seed in seeds.items()})
        for slot, decision in made.items():
            decisions[slot].append(decision)
            policy.record(slot, decision.action, reward=float(np.sin(seeds[slot] + step)))
    return decisions


def planner_policy(num_slots: int, **knobs) -> PlannerPolicy:
    return PlannerPolicy(random_model(5), random_discretizer(), CONFIG.model_copy(update=knobs), num_slots)


def test_every_decision_is_the_first_action_of_the_reference_plan_from_the_last_transitions():
    model, discretizer = random_model(5), random_discretizer()
    decisions = run(planner_policy(1), {0: 11}, steps=5)[0]
    reference = ReferencePlanner(model, discretizer.centers, CONFIG)
    rows = []
    for step, decision in enumerate(decisions):
        observation = observed(11, step)
        context = discretizer.encode(np.array(rows[-2:]).reshape(-1, 7)).astype(np.int64)
        tokens = discretizer.encode_columns(observation, LAYOUT.observation).astype(np.int64)
        expected = reference.plan(context, tokens, plan_noise(CONFIG, LAYOUT, 11, step))
        action = discretizer.decode_columns(expected.tokens[0, LAYOUT.action], LAYOUT.action)
        np.testing.assert_array_equal(decision.action, action)
        assert decision.predicted_return == pytest.approx(expected.predicted_return)
        rows.append([*observation, *action, np.sin(11 + step), 123.0])


def test_an_episode_is_the_same_alone_and_beside_others_that_come_and_go():
    alone = run(planner_policy(3), {0: 5}, steps=4)[0]
    policy = planner_policy(3)
    run(policy, {0: 1, 1: 2, 2: 3}, steps=2)
    beside = run(policy, {2: 5, 0: 8}, steps=4)[2]
    for one, other in zip(alone, beside, strict=True):
        np.testing.assert_array_equal(one.action, other.action)
        assert one.predicted_return == other.predicted_return


def test_a_plan_is_followed_for_plan_every_steps():
    decisions = run(planner_policy(1, plan_every=2), {0: 5}, steps=5)[0]
    assert [decision.plan is not None for decision in decisions] == [True, False, True, False, True]
    assert [math.isnan(decision.predicted_return) for decision in decisions] == [False, True, False, True, False]
    np.testing.assert_array_equal(decisions[0].action, decisions[0].plan.actions[0])
    np.testing.assert_array_equal(decisions[1].action, decisions[0].plan.actions[1])


def test_a_planner_without_context_looks_at_the_current_observation_only():
    config, discretizer = CONFIG.model_copy(update={"context_transitions": 0}), random_discretizer()
    decision = run(planner_policy(1, context_transitions=0), {0: 9}, steps=3)[0][2]
    tokens = discretizer.encode_columns(observed(9, 2), LAYOUT.observation).astype(np.int64)
    reference = ReferencePlanner(random_model(5), discretizer.centers, config)
    expected = reference.plan(np.zeros((0, 7), dtype=np.int64), tokens, plan_noise(config, LAYOUT, 9, 2))
    np.testing.assert_array_equal(decision.plan.tokens, expected.tokens)


def test_a_new_episode_in_a_slot_knows_nothing_of_the_one_before():
    policy = planner_policy(1)
    run(policy, {0: 1}, steps=3)
    again, fresh = run(policy, {0: 9}, steps=2)[0], run(planner_policy(1), {0: 9}, steps=2)[0]
    np.testing.assert_array_equal([d.action for d in again], [d.action for d in fresh])


def test_more_actions_than_the_horizon_has_are_refused():
    with pytest.raises(ValueError, match=r"planning\.plan_every is 4; expected at most planning\.horizon, 3"):
        PlanningConfig(horizon=3, plan_every=4)


def test_random_actions_fill_their_bounds():
    policy = RandomPolicy(BOX, num_slots=2)
    actions = np.array([decision.action for decision in run(policy, {1: 3}, steps=500)[1]])
    np.testing.assert_allclose(actions.min(axis=0), [-1, 0], atol=0.05)
    np.testing.assert_allclose(actions.max(axis=0), [1, 5], atol=0.05)


def test_random_choices_are_all_made():
    spaces = Spaces(observation_sizes=(3,), observation_columns=(0,), action_kind="discrete", action_choices=3)
    actions = [decision.action for decision in run(RandomPolicy(spaces, 1), {0: 3}, steps=60)[0]]
    assert {float(action[0]) for action in actions} == {0.0, 1.0, 2.0}
    assert actions[0].shape == (1,)


def test_a_random_episode_depends_on_its_seed_and_not_on_its_slot():
    first = run(RandomPolicy(BOX, 2), {0: 3, 1: 4}, steps=3)
    again = run(RandomPolicy(BOX, 2), {1: 3}, steps=3)
    np.testing.assert_array_equal([d.action for d in first[0]], [d.action for d in again[1]])
    assert not np.array_equal(first[0][0].action, first[1][0].action)


def test_random_actions_need_bounds():
    with pytest.raises(EvaluationError, match="action_low None and action_high None; expected finite bounds"):
        RandomPolicy(Spaces.plain(3, 2), 1)
