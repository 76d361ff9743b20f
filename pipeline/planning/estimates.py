"""Reward and value estimates from the probabilities of their bins."""

import torch
from torch import Tensor

from pipeline.planning.config import PlanningConfig


def estimates(logits_V: Tensor, centers_N: Tensor, config: PlanningConfig) -> Tensor:
    """Returns the (...) estimates of (..., V) logits: unfiltered, at temperature 1.

    "mean" is the expectation over bin centres, "percentile" the centre of the first bin at which the cumulative
    probability reaches `value_percentile` (the last bin if none does). The stop token counts as probability that goes
    nowhere: it is excluded and the rest is not renormalised, as in the released code.
    """
    probabilities_N = torch.softmax(logits_V, dim=-1)[..., :-1]
    if config.value_estimate == "mean":
        return (probabilities_N * centers_N).sum(dim=-1)
    below = (probabilities_N.cumsum(dim=-1) < config.value_percentile).sum(dim=-1)
    return centers_N[below.clamp(max=len(centers_N) - 1)]
