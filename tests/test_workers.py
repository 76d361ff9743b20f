import pytest
from pydantic import ValidationError

from pipeline.workers import WorkersConfig


def test_workers_are_a_number_or_a_range() -> None:
    assert WorkersConfig(number=3).range == (3, 3)
    assert WorkersConfig.model_validate({"number": [1, 4]}).range == (1, 4)


@pytest.mark.parametrize("workers", [0, (4, 1), (0, 2)])
def test_impossible_numbers_of_workers_are_refused(workers: int | tuple[int, int]) -> None:
    with pytest.raises(ValidationError, match=r"workers\.number is .*; expected a number of at least 1, or"):
        WorkersConfig(number=workers)


def test_no_setting_of_workers_is_part_of_an_identity() -> None:
    assert WorkersConfig().identity() == {}
