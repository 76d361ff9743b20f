"""The loss on held-out episodes: always the same windows, shared out among the workers."""

import torch
from torch import Tensor

from pipeline.seeding import derived_seed
from pipeline.training.order import ShuffledStarts
from pipeline.training.step import TrainStep
from pipeline.training.windows import ResidentWindows, share_of
from pipeline.training.world import World


class Validation:
    """A fixed random choice of held-out windows.

    Args:
        windows: All held-out windows.
        num_windows: How many to take, at most.
        batch_size: Windows of one forward pass.
        seed: Root seed; fixes the choice.
        world: The workers.
    """

    def __init__(self, windows: ResidentWindows, num_windows: int, batch_size: int, seed: int, world: World) -> None:
        chosen = min(num_windows, windows.num_starts)
        order = ShuffledStarts(windows.num_starts, derived_seed(seed, "validation windows"))
        share = share_of(chosen, world.rank, world.size)
        self._starts = order.at(share.start, share.stop - share.start)
        self._windows, self._batch_size, self._world = windows, batch_size, world

    def sums(self, step: TrainStep) -> Tensor:
        """Returns the (M, 2) sums of all workers, as `pipeline.training.objective.measured` takes them."""
        total = torch.zeros(len(step.objective.measures), 2, dtype=torch.float64, device=self._world.device)
        for first in range(0, len(self._starts), self._batch_size):
            total += step.evaluate(self._windows.gather(self._starts[first : first + self._batch_size]))
        return self._world.all_reduce_(total)
