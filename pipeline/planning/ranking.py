"""What sequences are ranked by: a replaceable part.

To add one, write a function of `Candidates`, enter it in `RANKINGS`, and its name in `PlanningConfig.ranking`. One that
needs more than its arguments, such as a Q-function's weights, is made where these are read and handed to
`pipeline.methods.trajectory_transformer.policy.PlannerPolicy` as it is.

Shape letters: E episodes, K places, X copies, T planned steps so far, D tokens of a transition, N bins.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.tokens.layout import TransitionLayout


@dataclass(frozen=True)
class Candidates:
    """All that a ranking may look at.

    Attributes:
        tokens: (E, K, X, T, D) planned so far; the last value token is included.
        rewards: (E, K, X, T) estimates.
        values: (E, K, X, T) estimates of the discounted rewards after each step.
        log_likelihood: (E, K, X), sum over the planned action and observation tokens of the model's log-probability,
            unfiltered and at temperature 1. Rewards and values are predictions, not behaviour, and do not count. None
            unless the ranking `uses_likelihood`: it costs a pass over the logits of every token.
        discount: g.
        layout: Which token means what.
        centers: (D, N), what the bins of each dimension stand for, to decode tokens with.
    """

    tokens: Tensor
    rewards: Tensor
    values: Tensor
    log_likelihood: Tensor | None
    discount: float
    layout: TransitionLayout
    centers: Tensor


@dataclass(frozen=True)
class Ranking:
    """Orders candidates.

    Attributes:
        score: Returns (E, K, X); higher is better. Nothing may be read back from the device, and no shape may depend on
            the data, so that a whole search can be one CUDA graph.
        uses_likelihood: Whether it needs `Candidates.log_likelihood`.
    """

    score: Callable[[Candidates], Tensor]
    uses_likelihood: bool = False


def predicted_return(candidates: Candidates) -> Tensor:
    """`sum_{i < T} g^i r_i + g^T V_T`, as in the released code."""
    steps = candidates.rewards.shape[-1]
    exponents = torch.arange(steps, dtype=candidates.rewards.dtype, device=candidates.rewards.device)
    discounts = torch.pow(candidates.discount, exponents)
    rewards = (candidates.rewards * discounts).sum(dim=-1)
    return rewards + candidates.discount**steps * candidates.values[..., -1]


def log_likelihood(candidates: Candidates) -> Tensor:
    """How likely the model thinks the sequence is: imitation of the data (paper, section 3.2)."""
    assert candidates.log_likelihood is not None
    return candidates.log_likelihood


RANKINGS = {
    "predicted_return": Ranking(predicted_return),
    "log_likelihood": Ranking(log_likelihood, uses_likelihood=True),
}


def scores(ranking: Ranking, candidates: Candidates) -> Tensor:
    """Returns the scores as float32, so that equal sequences tie whatever the last bits of a float64 sum."""
    return ranking.score(candidates).float()
