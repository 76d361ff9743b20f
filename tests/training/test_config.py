import pytest
from pydantic import ValidationError

from pipeline.training.config import TrainingConfig


def test_workers_are_a_number_or_a_range() -> None:
    assert TrainingConfig(num_workers=3).worker_range == (3, 3)
    assert TrainingConfig.model_validate({"num_workers": [1, 4]}).worker_range == (1, 4)


@pytest.mark.parametrize("workers", [0, (4, 1), (0, 2)])
def test_impossible_numbers_of_workers_are_refused(workers: int | tuple[int, int]) -> None:
    with pytest.raises(ValidationError, match=r"training\.num_workers is .*; expected a number of at least 1, or"):
        TrainingConfig(num_workers=workers)


def test_every_micro_batch_has_a_window() -> None:
    with pytest.raises(
        ValidationError, match=r"training\.batch_size is 7; expected at least 8, one window.* 4 workers \* .* 2"
    ):
        TrainingConfig(num_workers=(1, 4), accumulation_steps=2, batch_size=7)
