"""What a method minimises, as the training sees it: a model, a loss, and the measures that are reported.

The loop, its record and its display know no model: they have the names of the measures and the sums that these are
ratios of.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from pipeline.training.windows import Windows


class Objective(Protocol):
    """A model and its loss.

    Shape letters: B windows, M measures.

    Attributes:
        model: What is trained.
        measures: Names, `loss` first, which are some of the settings' `measures`. Others begin with what they measure,
            which says whether high or low is better: `loss_action`, `accuracy_reward`, `error_action`.
        flops_per_window: Floating-point operations that the training needs for one window, forward and backward.
    """

    model: nn.Module
    measures: tuple[str, ...]
    flops_per_window: float

    def counted(self, batch: Windows) -> Tensor:
        """Returns what the loss is divided by, summed up over all workers and micro-batches: a float32 scalar."""
        ...

    def __call__(self, forward: nn.Module, batch: Windows) -> tuple[Tensor, Tensor]:
        """Returns the sum to differentiate, and what is reported.

        Args:
            forward: The model, or what a training with several workers wraps around it.
            batch: Any number of windows.

        Returns:
            A scalar, before division by what is counted, and a detached (M, 2) float64 of sums and counts: a measure
            over any number of batches is the ratio of the two.
        """
        ...


MEASURE = r"^(loss|error|accuracy)(_.+)?$"
"""What names of measures look like."""
_HIGHER_IS_BETTER = {"loss": False, "error": False, "accuracy": True}
"""By the word that a measure begins with."""


def cost(measure: str, value: float) -> float:
    """Returns a number that is the lower the better the value of a measure is."""
    return -value if _HIGHER_IS_BETTER[measure.partition("_")[0]] else value


def measured(names: Sequence[str], sums_M2: Tensor, prefix: str = "") -> dict[str, float | None]:
    """Returns the measures by name, None where nothing was counted."""
    pairs = sums_M2.double().cpu().tolist()
    return {
        f"{prefix}{name}": total / count if count else None for name, (total, count) in zip(names, pairs, strict=True)
    }
