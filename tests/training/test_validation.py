import pytest
import torch
from torch import Tensor

from pipeline.training.step import TrainStep
from pipeline.training.validation import Validation
from pipeline.training.windows import ResidentWindows
from pipeline.training.world import World
from tests.training.tasks import make_task


class Part(World):
    """A worker whose sums stay its own."""

    def all_reduce_(self, tensor: Tensor) -> Tensor:
        return tensor


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[ResidentWindows, TrainStep]:
    training, cpu = make_task(tmp_path_factory.mktemp("task")), torch.device("cpu")
    step = TrainStep(training.make_objective(cpu), training.task.training, World(), 0)
    return training.resident_windows("validation", cpu), step


def test_the_workers_shares_sum_up_to_the_whole(scene: tuple[ResidentWindows, TrainStep]) -> None:
    windows, step = scene
    whole = Validation(windows, 17, 4, 0, World()).sums(step)
    parts = [Validation(windows, 17, 4, 0, Part(rank, 3)).sums(step) for rank in range(3)]
    assert torch.equal(sum(part[:, 1] for part in parts), whole[:, 1])  # counts
    # float32 sums of other batches
    assert torch.allclose(sum(part[:, 0] for part in parts), whole[:, 0], rtol=1e-6)


def test_it_is_always_the_same_windows_and_at_most_as_many_as_there_are(
    scene: tuple[ResidentWindows, TrainStep],
) -> None:
    windows, step = scene
    some, again, other = (Validation(windows, 5, 4, seed, World()).sums(step) for seed in (0, 0, 1))
    assert torch.equal(some, again)
    assert not torch.equal(some, other)
    every, more = (Validation(windows, number, 4, 0, World()).sums(step) for number in (windows.num_starts, 10**6))
    assert torch.equal(every, more)
    assert every[0, 1] > some[0, 1]
