import pytest

from pipeline.tokens.layout import TransitionLayout

HOPPER = TransitionLayout.plain(observation_dim=11, action_dim=3, num_bins=100)


def test_a_transition_is_observation_action_reward_value() -> None:
    kinds = [HOPPER.kind(dimension) for dimension in range(HOPPER.transition_dim)]
    assert kinds == ["observation"] * 11 + ["action"] * 3 + ["reward", "value"]
    assert list(range(16))[HOPPER.observation] == list(range(11))
    assert list(range(16))[HOPPER.action] == [11, 12, 13]
    assert (HOPPER.reward, HOPPER.value) == (14, 15)


def test_the_stop_token_comes_after_the_bins() -> None:
    assert (HOPPER.stop_token, HOPPER.vocabulary_size) == (100, 101)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, 10, (10,) * 3, ()), "layout is 0 observation and 1 action tokens of 10 bins"),
        ((1, 1, 10, (10,) * 3, ("a",)), "bins is .* expected 4 numbers of 1 to 10"),
        ((1, 1, 10, (10, 11, 10, 10), ("a",)), "bins is .* expected 4 numbers of 1 to 10"),
        ((2, 1, 10, (10,) * 5, ("a",)), "observation_names has 1; expected 2"),
    ],
)
def test_a_layout_that_contradicts_itself_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransitionLayout(*arguments)
