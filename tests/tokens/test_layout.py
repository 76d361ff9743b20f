import pytest

from pipeline.tokens.layout import TransitionLayout


def test_hopper_has_sixteen_tokens_in_the_order_observation_action_reward_value() -> None:
    layout = TransitionLayout.plain(11, 3, 100)
    assert layout.transition_dim == 16
    assert (layout.observation, layout.action, layout.reward, layout.value) == (slice(0, 11), slice(11, 14), 14, 15)
    assert [layout.kind(place) for place in (0, 10, 11, 13, 14, 15)] == [
        "observation",
        "observation",
        "action",
        "action",
        "reward",
        "value",
    ]
    assert (layout.stop_token, layout.vocabulary_size) == (100, 101)


@pytest.mark.parametrize(
    ("bins", "message"),
    [((5, 5, 5), "expected 4 numbers of 1 to 5"), ((6, 5, 5, 5), "bins is"), ((0, 5, 5, 5), "bins is")],
)
def test_bins_that_do_not_fit_the_dimensions_are_refused(bins: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransitionLayout(1, 1, 5, bins, ("observation[0]",))


def test_a_layout_without_observations_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least 1, 1 and 2"):
        TransitionLayout(0, 1, 5, (5, 5, 5), ())


def test_a_name_for_each_observation_is_wanted() -> None:
    with pytest.raises(ValueError, match="observation_names has 1; expected 2"):
        TransitionLayout(2, 1, 5, (5,) * 5, ("only one",))
