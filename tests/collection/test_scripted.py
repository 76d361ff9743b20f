import gymnasium
import numpy as np
import pytest

from pipeline.collection.scripted import CONTROLLERS, Controller


def mean_return(environment_id: str, controller: Controller, episodes: int, **options: object) -> float:
    environment = gymnasium.make(environment_id, **options)
    totals = []
    for seed in range(episodes):
        observation, _ = environment.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            action = np.clip(controller(observation), environment.action_space.low, environment.action_space.high)
            observation, reward, terminated, truncated, _ = environment.step(action.astype(np.float32))
            total, over = total + float(reward), terminated or truncated
        totals.append(total)
    return float(np.mean(totals))


def test_the_pendulum_is_balanced_to_the_end() -> None:
    assert mean_return("InvertedPendulum-v5", CONTROLLERS["inverted_pendulum"], 3, max_episode_steps=200) == 200


def test_the_finger_reaches_its_target() -> None:
    # A random policy has -43.
    assert mean_return("Reacher-v5", CONTROLLERS["reacher"], 20) > -6


@pytest.mark.parametrize("target", [(0.21, 0.0), (0.0, 0.0), (-0.1, 0.15), (0.5, 0.5)])
def test_a_target_out_of_reach_gives_finite_torques(target: tuple[float, float]) -> None:
    observation = np.array([1.0, 1.0, 0.0, 0.0, *target, 0.0, 0.0, 0.0, 0.0])
    assert np.isfinite(CONTROLLERS["reacher"](observation)).all()
