import pytest

from pipeline.training.config import TrainingConfig
from pipeline.training.schedule import Schedule


def make(**settings: object) -> Schedule:
    """10 steps of 4 windows of 5 tokens in each of 4 epochs, unless told otherwise."""
    return Schedule.of(
        TrainingConfig.model_validate({"epochs": 4, "batch_size": 4, "learning_rate": 1.0, **settings}),
        num_starts=40,
        window_tokens=5,
    )


def test_an_epoch_is_one_window_for_each_start() -> None:
    schedule = make()
    assert (schedule.steps_per_epoch, schedule.total_steps, schedule.tokens_per_step) == (10, 40, 20)
    assert schedule.tokens_per_epoch == 200


def test_an_epoch_can_be_a_stated_number_of_windows() -> None:
    assert make(epoch_windows=41).steps_per_epoch == 11


def test_the_learning_rate_rises_through_the_first_epoch() -> None:
    schedule = make()
    assert [schedule.learning_rate(step) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])


def test_the_cosine_ends_at_its_share_and_stays_there() -> None:
    schedule = make(decay_tokens=600)
    assert schedule.learning_rate(19) == pytest.approx(0.1 + 0.9 / 2)  # half way from token 200 to 600
    assert schedule.learning_rate(29) == pytest.approx(0.1)
    assert schedule.learning_rate(39) == pytest.approx(0.1)


def test_without_warm_up_the_first_step_is_near_the_peak() -> None:
    assert make(warmup_tokens=0).learning_rate(0) == pytest.approx(1.0, abs=0.01)
