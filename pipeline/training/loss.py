"""The training loss, and the sums from which losses and accuracies by token kind are reported.

    loss = sum over counted targets of weight(kind) * cross-entropy / number of counted targets

The denominator is the number of counted targets of the whole global batch (all workers, all micro-batches), not the sum
of weights: with the paper's weights the loss is about (O + 5 A + 2) / D of the mean cross-entropy. Targets that do not
count (see `pipeline.training.windows`) are in neither sum. Deviation: the released code divides by all positions.

Shape letters: B windows, W transitions of a window, D tokens of a transition, L = W * D - 1 inputs, V vocabulary,
K token kinds.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.tokens.layout import TOKEN_KINDS, TransitionLayout
from pipeline.training.config import LossWeights
from pipeline.training.windows import WindowBatch


@dataclass(frozen=True)
class Targets:
    """A batch as the model sees it.

    Attributes:
        inputs: (B, L) integers.
        targets: (B, L) int64, the token after each input.
        counted: (B, L) float32, 1 where the target counts in the loss, else 0.
    """

    inputs: Tensor
    targets: Tensor
    counted: Tensor

    @classmethod
    def of(cls, batch: WindowBatch) -> "Targets":
        """Returns inputs and targets of `batch`: all tokens but the last, all tokens but the first."""
        tokens_BL = batch.tokens.flatten(1)
        counted_BL = batch.counted[:, :, None].expand(batch.tokens.shape).flatten(1)
        return cls(tokens_BL[:, :-1], tokens_BL[:, 1:].long(), counted_BL[:, 1:].float())

    def slice(self, part: slice) -> "Targets":
        """Returns some of the windows."""
        return Targets(self.inputs[part], self.targets[part], self.counted[part])


class LossFunction:
    """Weighted cross-entropy and its parts; holds the kind and the weight of each target position."""

    def __init__(
        self, layout: TransitionLayout, window_transitions: int, weights: LossWeights, device: torch.device
    ) -> None:
        dim = layout.transition_dim
        kinds = [layout.kind(position % dim) for position in range(1, window_transitions * dim)]
        rows = torch.tensor([TOKEN_KINDS.index(kind) for kind in kinds], device=device)
        self._kinds_LK = functional.one_hot(rows, len(TOKEN_KINDS)).float()
        self._weights_L = torch.tensor([getattr(weights, kind) for kind in kinds], device=device)

    def __call__(self, logits_BLV: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """Returns the weighted sum of the cross-entropies, and the sums by kind.

        Args:
            logits_BLV: The model's output for `targets.inputs`, of any floating type; computed on in float32.
            targets: What should have been predicted.

        Returns:
            The scalar to differentiate (before division by the number of counted targets), and a detached (3, K) of
            summed cross-entropy, correct predictions and counted targets of each kind.
        """
        logits, flat = logits_BLV.float().flatten(0, 1), targets.targets.flatten()
        losses_BL = functional.cross_entropy(logits, flat, reduction="none").view_as(targets.targets) * targets.counted
        with torch.no_grad():
            correct_BL = (logits_BLV.argmax(-1) == targets.targets) * targets.counted
            sums_3L = torch.stack([losses_BL.sum(0), correct_BL.sum(0), targets.counted.sum(0)])
            # No matrix product: autocast would round the sums to bfloat16.
            sums_3K = (sums_3L[:, :, None] * self._kinds_LK).sum(1)
        return (losses_BL.sum(0) * self._weights_L).sum(), sums_3K


def report(sums_3K: Tensor, weights: LossWeights, prefix: str = "") -> dict[str, float | None]:
    """Returns loss and accuracy in all and by kind from the sums of any number of batches.

    Kinds without a counted target have None.
    """
    losses, correct, counts = sums_3K.double().cpu().tolist()
    weighted = sum(getattr(weights, kind) * loss for kind, loss in zip(TOKEN_KINDS, losses, strict=True))
    result: dict[str, float | None] = {f"{prefix}loss": _ratio(weighted, sum(counts))}
    for kind, loss, right, count in zip(TOKEN_KINDS, losses, correct, counts, strict=True):
        result[f"{prefix}loss_{kind}"] = _ratio(loss, count)
        result[f"{prefix}accuracy_{kind}"] = _ratio(right, count)
    return result


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
