import dataclasses

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.planning.beam import BeamPlanner
from pipeline.planning.compiled_stepper import CompiledStepper
from pipeline.planning.config import PlanningConfig
from pipeline.planning.dense_stepper import DenseStepper
from pipeline.planning.noise import plan_noise
from pipeline.references.planner import ReferencePlanner
from pipeline.tokens.layout import TransitionLayout
from tests.planning.scenes import LAYOUT, random_discretizer, random_model, request

SMALL = {"beam_width": 6, "horizon": 3, "context_transitions": 2}


def assert_same_plans(config: PlanningConfig, window: int, past: tuple[int, ...], **shape: str) -> None:
    """Plans for episodes with that much past each, in one call and by the reference, and compares all there is."""
    model, discretizer = random_model(window, **shape), random_discretizer()
    requests = [request(config, seed, transitions) for seed, transitions in enumerate(past)]
    plans = BeamPlanner(model, discretizer, config, len(past)).plan(requests)
    reference = ReferencePlanner(model, discretizer.centers, config)
    for asked, plan in zip(requests, plans, strict=True):
        expected = reference.plan(np.asarray(asked.context), np.asarray(asked.observation), asked.noise)
        np.testing.assert_array_equal(plan.tokens, expected.tokens)
        np.testing.assert_allclose(plan.rewards, expected.rewards, atol=1e-12)
        np.testing.assert_allclose(plan.values, expected.values, atol=1e-12)
        np.testing.assert_allclose(plan.predicted_return, expected.predicted_return, atol=1e-12)


@pytest.mark.parametrize("horizon", [1, 2, 3, 5, 10, 20])
@pytest.mark.parametrize("window", [22, 5])
def test_every_horizon_gives_the_reference_plan(horizon, window):
    assert_same_plans(PlanningConfig(**SMALL | {"horizon": horizon}), window, past=(2, 0))


@pytest.mark.parametrize("past", [(0,), (1,), (2,), (0, 1, 2, 2, 1)])
def test_every_length_of_the_past_gives_the_reference_plan_alone_and_together(past):
    assert_same_plans(PlanningConfig(**SMALL), window=5, past=past)


@pytest.mark.parametrize(
    ("context", "window"), [(2, 6), (2, 5), (2, 4), (2, 3), (0, 2), (0, 3), (4, 5), (4, 4), (6, 4)]
)
def test_a_window_that_slides_gives_the_reference_plan(context, window):
    """A context as long as the model's window, or longer, loses its oldest transitions before the first step."""
    config = PlanningConfig(**SMALL | {"horizon": 5, "context_transitions": context})
    assert_same_plans(config, window, past=tuple(range(context + 1)))


@pytest.mark.parametrize("window", [7, 4])
def test_fixed_positions_give_the_reference_plan_too(window):
    assert_same_plans(PlanningConfig(**SMALL | {"horizon": 5}), window, past=(0, 2), positions="sinusoidal")


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"expansion_factor": 1},
        {"expansion_factor": 3},
        {"beam_width": 1},
        {"k_obs": 2},
        {"ranking": "log_likelihood"},
    ],
    ids=str,
)
@pytest.mark.parametrize("window", [7, 4])
def test_the_dense_stepper_of_gpus_gives_the_reference_plan_too(knobs, window, monkeypatch):
    monkeypatch.setattr("pipeline.planning.beam.make_stepper", DenseStepper)
    assert_same_plans(PlanningConfig(**SMALL | {"horizon": 5} | knobs), window, past=(0, 1, 2))


def test_bfloat16_stays_near_float32():
    model, discretizer = random_model(5, torch.float32), random_discretizer()
    asked = request(PlanningConfig(**SMALL), 7, 2)
    returns = []
    for precision in ("float32", "bfloat16"):
        config = PlanningConfig(**SMALL, precision=precision, cdf_act=0.99)
        returns.append(BeamPlanner(model, discretizer, config, 1).plan([asked])[0].predicted_return)
    assert returns[0] != returns[1]
    assert returns[0] == pytest.approx(returns[1], abs=0.3)


def test_a_past_longer_than_the_context_is_cut():
    config = PlanningConfig(**SMALL)
    planner = BeamPlanner(random_model(5), random_discretizer(), config, 1)
    longer = request(config, 1, 4)
    cut = dataclasses.replace(longer, context=longer.context[-2:])
    np.testing.assert_array_equal(planner.plan([longer])[0].values, planner.plan([cut])[0].values)


def test_a_window_of_one_transition_cannot_plan_ahead():
    config = PlanningConfig(**SMALL | {"context_transitions": 0})
    with pytest.raises(ConfigError, match=r"planning\.horizon is 3; expected 1, because the model's window of 1"):
        BeamPlanner(random_model(1), random_discretizer(), config, 1)


@pytest.mark.parametrize(
    "knobs",
    [
        {"cdf_act": None},
        {"cdf_act": 0.0},
        {"cdf_act": 0.95},
        {"cdf_act": None, "k_act": 1},
        {"cdf_act": None, "k_act": 3},
        {"cdf_act": 0.3, "k_act": 4},
        {"k_obs": 2},
        {"k_obs": None},
        {"temperature": 0.3, "k_obs": 3},
        {"temperature": 4.0, "cdf_act": None},
        {"expansion_factor": 1},
        {"expansion_factor": 3},
        {"beam_width": 1},
        {"beam_width": 1, "expansion_factor": 1},
        {"value_estimate": "percentile", "value_percentile": 0.8},
        {"value_estimate": "percentile", "value_percentile": 1.0},
        {"discount": 0.5},
        {"discount": 1.0},
        {"ranking": "log_likelihood"},
        {"ranking": "log_likelihood", "k_obs": 2},
        {"ranking": "log_likelihood", "horizon": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("window", [5, 3])
def test_every_knob_gives_the_reference_plan(knobs, window):
    assert_same_plans(PlanningConfig(**SMALL | knobs), window, past=(0, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("beam_width", [3, 16, 40])
def test_a_plan_is_the_same_to_the_bit_alone_in_other_slots_and_beside_others(dtype, beam_width):
    config = PlanningConfig(**SMALL | {"beam_width": beam_width})
    planner = BeamPlanner(random_model(4, dtype), random_discretizer(), config, 5)
    wanted = request(config, seed=7, transitions=1)
    others = [request(config, seed, transitions) for seed, transitions in ((1, 0), (2, 2), (3, 2), (4, 1))]
    alone = planner.plan([wanted])[0]
    for slot in range(5):
        beside = planner.plan([*others[:slot], wanted, *others[slot:]])[slot]
        for name, array in dataclasses.asdict(alone).items():
            np.testing.assert_array_equal(array, getattr(beside, name), err_msg=f"{name} in slot {slot}")


@pytest.mark.parametrize(("stepper", "precision"), [(CompiledStepper, "float32"), (DenseStepper, "bfloat16")])
@pytest.mark.parametrize("window", [4, 2])
def test_a_plan_of_the_papers_width_is_the_same_to_the_bit_beside_others(stepper, precision, window, monkeypatch):
    """Other kernels multiply wide matrices than narrow ones; 4 episodes of 32 beams are one search."""
    monkeypatch.setattr("pipeline.planning.beam.make_stepper", stepper)
    layout = TransitionLayout.plain(11, 3, num_bins=100)
    config = PlanningConfig(beam_width=32, horizon=2, context_transitions=2, precision=precision)
    model = random_model(window, torch.float32, layout, heads=4, width=128, scale=0.1)
    planner = BeamPlanner(model, random_discretizer(layout), config, 4)
    wanted, *others = (request(config, seed, transitions, layout) for seed, transitions in enumerate((1, 0, 2, 2)))
    alone, beside = planner.plan([wanted])[0], planner.plan([*others, wanted])[3]
    np.testing.assert_array_equal(alone.tokens, beside.tokens)
    np.testing.assert_array_equal(alone.values, beside.values)


def test_idle_slots_get_no_plan():
    config = PlanningConfig(**SMALL)
    plans = BeamPlanner(random_model(5), random_discretizer(), config, 3).plan([None, request(config, 0, 2), None])
    assert [plan is None for plan in plans] == [True, False, True]


def test_more_requests_than_slots_are_refused():
    config = PlanningConfig(**SMALL)
    planner = BeamPlanner(random_model(5), random_discretizer(), config, 1)
    with pytest.raises(ValueError, match="requests has 2 entries; expected at most 1"):
        planner.plan([None, None])


def test_a_planner_keeps_nothing_from_one_plan_to_the_next():
    config = PlanningConfig(**SMALL | {"horizon": 5})
    planner = BeamPlanner(random_model(4), random_discretizer(), config, 1)
    first = planner.plan([request(config, 1, 2)])[0]
    planner.plan([request(config, 2, 0)])
    again = planner.plan([request(config, 1, 2)])[0]
    np.testing.assert_array_equal(first.tokens, again.tokens)
    assert first.predicted_return == again.predicted_return


def test_the_placeholder_of_past_values_does_not_matter():
    config = PlanningConfig(**SMALL | {"horizon": 5})
    planner = BeamPlanner(random_model(4), random_discretizer(), config, 1)
    asked = request(config, 1, 2)
    context = np.array(asked.context)
    context[:, -1] = (context[:, -1] + 3) % 7
    other = planner.plan([dataclasses.replace(asked, context=context)])[0]
    np.testing.assert_array_equal(planner.plan([asked])[0].values, other.values)


def test_other_random_numbers_give_another_plan():
    config = PlanningConfig(**SMALL | {"cdf_act": None})
    planner = BeamPlanner(random_model(5), random_discretizer(), config, 1)
    asked = request(config, 1, 2)
    other = dataclasses.replace(asked, noise=plan_noise(config, LAYOUT, seed=1, step=3))
    assert not np.array_equal(planner.plan([asked])[0].tokens, planner.plan([other])[0].tokens)


def test_planned_tokens_are_bins_that_their_dimensions_have():
    config = PlanningConfig(**SMALL | {"cdf_act": None, "k_obs": None, "temperature": 50.0, "beam_width": 64})
    plan = BeamPlanner(random_model(5), random_discretizer(), config, 1).plan([request(config, 1, 2)])[0]
    assert (plan.tokens < np.array(LAYOUT.bins)).all()


def test_the_plan_begins_with_the_current_observation_and_decodes_its_actions():
    config = PlanningConfig(**SMALL)
    asked, discretizer = request(config, 1, 2), random_discretizer()
    plan = BeamPlanner(random_model(5), discretizer, config, 1).plan([asked])[0]
    np.testing.assert_array_equal(plan.tokens[0, LAYOUT.observation], asked.observation)
    for row, action in zip(plan.tokens, plan.actions, strict=True):
        expected = [discretizer.centers[d, row[d]] for d in range(LAYOUT.action.start, LAYOUT.action.stop)]
        np.testing.assert_array_equal(action, expected)


def test_the_predicted_return_is_the_discounted_sum_of_rewards_and_the_last_value():
    config = PlanningConfig(**SMALL | {"discount": 0.9, "ranking": "log_likelihood"})
    plan = BeamPlanner(random_model(5), random_discretizer(), config, 1).plan([request(config, 1, 2)])[0]
    r, v = plan.rewards, plan.values
    assert plan.predicted_return == pytest.approx(r[0] + 0.9 * r[1] + 0.81 * r[2] + 0.729 * v[2])


def test_the_planner_does_not_follow_later_changes_of_the_model():
    config, model = PlanningConfig(**SMALL), random_model(5)
    planner = BeamPlanner(model, random_discretizer(), config, 1)
    before = planner.plan([request(config, 1, 2)])[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(planner.plan([request(config, 1, 2)])[0].values, before.values)
