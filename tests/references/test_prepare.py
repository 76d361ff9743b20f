import numpy as np

from pipeline.references.prepare import reference_values


def test_the_values_of_three_rewards_are_those_of_a_hand_calculation() -> None:
    assert reference_values(np.array([1.0, 2.0, 4.0]), 0.5).tolist() == [2.0 + 0.5 * 4.0, 4.0, 0.0]
