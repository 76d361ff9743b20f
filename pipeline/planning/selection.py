"""Which candidates stay in the beam, and at which place.

A sequence's place decides which random numbers it uses, so this rule is part of the algorithm. It keeps as many
sequences as it can where they are.

Shape letters: E episodes, K places, X copies.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Kept:
    """The new beam.

    Attributes:
        source: (E, K), the place that the sequence now at this place descends from.
        copy: (E, K), which of that place's copies it is.
    """

    source: Tensor
    copy: Tensor

    def of_candidates(self, candidates_EKX: Tensor) -> Tensor:
        """Returns (E, K, ...) of (E, K, X, ...): what belongs to the kept candidates."""
        episodes = torch.arange(candidates_EKX.shape[0], device=candidates_EKX.device)[:, None]
        return candidates_EKX[episodes, self.source, self.copy]


def best_candidate(scores_EKX: Tensor) -> Kept:
    """Returns the best candidate of each episode as a beam of one; of equal scores the earlier place and copy."""
    best_E1 = scores_EKX.flatten(1).argmax(dim=1, keepdim=True)
    copies = scores_EKX.shape[2]
    return Kept(best_E1 // copies, best_E1 % copies)


def kept_candidates(scores_EKX: Tensor) -> Kept:
    """Keeps the K best of K * X candidates; of equal scores those of the earlier place, then the earlier copy.

    The first kept copy of a sequence takes over its place; the others take, in order, the places of which no copy was
    kept. No shape depends on the data, and nothing is read back from the device.
    """
    episodes, places, copies = scores_EKX.shape
    order = scores_EKX.flatten(1).sort(dim=1, descending=True, stable=True).indices
    kept = torch.zeros(episodes, places * copies, dtype=torch.bool, device=scores_EKX.device)
    kept = kept.scatter(1, order[:, :places], True).view(episodes, places, copies)
    first = kept & (kept.cumsum(dim=2) == 1)
    survives = first.any(dim=2)
    # Candidates that need another place come first in `homeless`, in order; the n-th free place takes the n-th of them.
    homeless = (kept & ~first).flatten(1).sort(dim=1, descending=True, stable=True).indices
    nth_free = ((~survives).cumsum(dim=1) - 1).clamp(min=0)
    at_home = torch.arange(places, device=scores_EKX.device) * copies + first.to(torch.uint8).argmax(dim=2)
    candidate = torch.where(survives, at_home, homeless.gather(1, nth_free))
    return Kept(candidate // copies, candidate % copies)
