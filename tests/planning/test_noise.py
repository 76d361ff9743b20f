import numpy as np

from pipeline.planning.config import PlanningConfig
from pipeline.planning.noise import no_noise, plan_noise
from tests.planning.scenes import LAYOUT

CONFIG = PlanningConfig(beam_width=50, horizon=4, expansion_factor=3)


def test_the_same_seed_and_step_give_the_same_numbers():
    first, again = plan_noise(CONFIG, LAYOUT, seed=5, step=9), plan_noise(CONFIG, LAYOUT, seed=5, step=9)
    np.testing.assert_array_equal(first.actions, again.actions)


def test_another_seed_or_step_gives_others():
    first = plan_noise(CONFIG, LAYOUT, seed=5, step=9).actions
    for seed, step in ((5, 10), (6, 9), (9, 5)):
        assert not np.isin(plan_noise(CONFIG, LAYOUT, seed, step).actions, first).mean() > 0.01


def test_every_sampled_token_has_a_number_of_its_own():
    noise = plan_noise(CONFIG.model_copy(update={"k_obs": 2}), LAYOUT, seed=5, step=9)
    assert noise.actions.shape == (4, 50, 3, 2)
    assert noise.observations.shape == (3, 50, 3)
    numbers = np.concatenate([noise.actions.ravel(), noise.observations.ravel()])
    assert len(np.unique(numbers)) > 0.999 * len(numbers)


def test_greedy_observations_need_no_numbers():
    assert plan_noise(CONFIG, LAYOUT, seed=5, step=9).observations.size == 0


def test_numbers_are_uniform_and_the_same_in_single_and_double_precision():
    numbers = plan_noise(CONFIG, LAYOUT, seed=5, step=9).actions
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.03
    np.testing.assert_array_equal(numbers.astype(np.float64) * 2**24 % 1, 0)


def test_idle_slots_have_zeros_of_the_same_shapes():
    for config in (CONFIG, CONFIG.model_copy(update={"k_obs": None})):
        idle, noise = no_noise(config, LAYOUT), plan_noise(config, LAYOUT, seed=0, step=0)
        assert (idle.actions.shape, idle.observations.shape) == (noise.actions.shape, noise.observations.shape)
