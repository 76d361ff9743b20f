"""The manifest of no data, for models with random weights."""

import numpy as np

from pipeline.data.manifest import Manifest, Totals
from pipeline.data.returns import RewardTreatment
from pipeline.data.spaces import Spaces
from pipeline.data.statistics import DimensionStatistics, Statistics
from pipeline.tokens.discretizer import Discretizer
from pipeline.tokens.layout import TransitionLayout


def manifest_without_data(spaces: Spaces) -> Manifest:
    """Returns a manifest of 100 bins of equal width between -10 and 10, with a mean of 0 and a deviation of 1."""
    layout = TransitionLayout.plain(spaces.observation_dim, spaces.action_dim, num_bins=100)
    edges = np.tile(np.linspace(-10.0, 10.0, layout.num_bins + 1), (layout.transition_dim, 1))
    discretizer = Discretizer(layout, edges)
    dimensions = tuple(
        DimensionStatistics(
            name=f"column {i}", minimum=-10, maximum=10, mean=0, deviation=1, distinct=100, bins=100, clipped=0
        )
        for i in range(layout.transition_dim)
    )
    return Manifest(
        layout=layout,
        edges=tuple(map(tuple, edges.tolist())),
        centers=tuple(map(tuple, discretizer.centers.tolist())),
        discretizer_kind="uniform",
        spaces=spaces,
        treatment=RewardTreatment(discount=0.99),
        columns=(),
        seed=0,
        sources=(),
        shards=(),
        totals=Totals(episodes=0, validation_episodes=0, steps=0, validation_steps=0),
        statistics=Statistics(returns=(), dimensions=dimensions, sampled_steps=0),
        versions={},
    )
