"""The Trajectory Transformer's loss, and what is measured by token kind.

    loss = sum over counted targets of weight(kind) * cross-entropy / number of counted targets

The denominator is the number of counted targets of the whole global batch (all workers, all micro-batches), not the sum
of weights: with the paper's weights the loss is about (O + 5 A + 2) / D of the mean cross-entropy. Deviation: the
released code divides by all positions.

What lies beyond the end of a window's episode is the stop token. It is learnt where the episode terminated, so that the
model knows that nothing follows; where the episode was truncated (a time limit, a collector that stopped) nobody knows
what would have followed, and these targets are in neither sum.

Shape letters: B windows, W transitions of a window, D tokens of a transition, L = W * D - 1 inputs, V vocabulary,
K token kinds, M = 1 + 2 K measures.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.table import TOKENS
from pipeline.methods.trajectory_transformer.config import LossWeights, TrajectoryTransformerConfig
from pipeline.models.trajectory_transformer import TrajectoryTransformer
from pipeline.tokens.layout import TOKEN_KINDS
from pipeline.training.windows import Windows


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
    def of(cls, batch: Windows, stop_token: int) -> "Targets":
        """Returns inputs and targets of `batch`: all tokens but the last, all tokens but the first."""
        tokens_BL = batch[TOKENS].masked_fill(~batch.real[:, :, None], stop_token).flatten(1)
        return cls(tokens_BL[:, :-1], tokens_BL[:, 1:].long(), _counted(batch))


def _counted(batch: Windows) -> Tensor:
    """Returns (B, L), see `Targets`."""
    counted_BW = batch.real | batch.terminated[:, None]
    return counted_BW[:, :, None].expand(batch[TOKENS].shape).flatten(1)[:, 1:].float()


class TokenObjective:
    """Weighted cross-entropy of the next token; see `pipeline.training.objective.Objective`.

    Args:
        model: On the device that trains.
        weights: Of each token kind.
    """

    measures = TrajectoryTransformerConfig.measures

    def __init__(self, model: TrajectoryTransformer, weights: LossWeights) -> None:
        self.model: nn.Module = model
        layout, length, device = model.layout, model.max_inputs, model.mask.device
        kinds = [layout.kind(position % layout.transition_dim) for position in range(1, length + 1)]
        rows = torch.tensor([TOKEN_KINDS.index(kind) for kind in kinds], device=device)
        self._kinds_LK = functional.one_hot(rows, len(TOKEN_KINDS)).float()
        self._weights_K = torch.tensor([getattr(weights, kind) for kind in TOKEN_KINDS], device=device)
        self._weights_L = self._weights_K[rows]
        self._stop = layout.stop_token
        self.flops_per_window = flops_per_token(model) * length

    def counted(self, batch: Windows) -> Tensor:
        """Returns the number of targets that count."""
        return _counted(batch).sum()

    def __call__(self, forward: nn.Module, batch: Windows) -> tuple[Tensor, Tensor]:
        """Returns the weighted sum of the cross-entropies, and the measures' sums and counts."""
        targets = Targets.of(batch, self._stop)
        return self.loss(forward(targets.inputs), targets)

    def loss(self, logits_BLV: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """Returns what a call returns.

        Args:
            logits_BLV: The model's output for `targets.inputs`, of any floating type; computed on in float32.
            targets: What should have been predicted.
        """
        logits, flat = logits_BLV.float().flatten(0, 1), targets.targets.flatten()
        losses_BL = functional.cross_entropy(logits, flat, reduction="none").view_as(targets.targets) * targets.counted
        with torch.no_grad():
            correct_BL = (logits_BLV.argmax(-1) == targets.targets) * targets.counted
            sums_3L = torch.stack([losses_BL.sum(0), correct_BL.sum(0), targets.counted.sum(0)])
            # No matrix product: autocast would round the sums to bfloat16.
            sums_3K = (sums_3L[:, :, None] * self._kinds_LK).sum(1).double()
            losses_K, correct_K, counts_K = sums_3K
            weighted = (self._weights_K * losses_K).sum()
            sums_M = torch.cat([weighted[None], losses_K, correct_K])
            counts_M = torch.cat([counts_K.sum()[None], counts_K, counts_K])
        return (losses_BL.sum(0) * self._weights_L).sum(), torch.stack([sums_M, counts_M], dim=1)


def flops_per_token(model: TrajectoryTransformer) -> float:
    """Returns the floating-point operations that one trained token needs, forward and backward.

    Three times the forward pass: two for each weight of a matrix product (the head of one dimension only), and in each
    block four per embedding column for each key that the mask lets an average query see. Recomputation, embedding
    look-ups, norms and softmax are not counted.
    """
    matrices = sum(p.numel() for name, p in model.blocks.named_parameters() if p.dim() == 2)
    head = model.head.weight[0].numel()
    keys = model.mask.sum().item() / len(model.mask)
    attention = 2 * model.config.layers * model.config.width * keys
    return 3 * 2 * (matrices + head + attention)
