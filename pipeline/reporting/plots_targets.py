"""What a return-conditioned method achieves against what it is asked for, above the returns that its data has."""

from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from pipeline.data.statistics import ReturnStatistics
from pipeline.reporting.figures import Drawing, canvas, drawing, styled
from pipeline.reporting.methods import DATA, colours
from pipeline.reporting.table import ResultRow


@styled
def asked_and_achieved(
    targets: Sequence[float], rows: Sequence[ResultRow], sources: Sequence[ReturnStatistics]
) -> Drawing:
    """Mean return over the return asked for, with intervals and the diagonal; below, histograms of the data's returns.

    Args:
        targets: Asked for, in ascending order.
        rows: Of the table, one for each target.
        sources: Of the data, at least one.
    """
    palette = colours(())
    figure, (above, below) = canvas(4.2, rows=2, share_x=True)
    colour, grey = palette["decision_transformer"], palette[DATA]
    means = [row.mean_return for row in rows]
    above.plot(targets, means, color=colour, marker="o", markersize=4, label="achieved, mean and 95 % interval")
    for target, row in zip(targets, rows, strict=True):
        if row.interval is not None:
            above.plot((target, target), row.interval, color=colour, linewidth=2, alpha=0.5)
    low = min(*targets, *(source.quantiles[0] for source in sources))
    high = max(*targets, *(source.quantiles[-1] for source in sources))
    above.plot((low, high), (low, high), color=grey, linestyle=(0, (3, 3)), linewidth=1.2, label="as asked for")
    above.set_ylabel("achieved return")
    above.legend(loc="upper left")
    for source in sources:
        below.stairs(source.histogram_counts, source.histogram_edges, fill=True, color=grey, alpha=0.6)
    below.set_ylabel("episodes")
    below.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    below.set_xlabel("return asked for; below, returns of the data's episodes")
    said = ", ".join(f"{target:.4g}: {mean:.4g}" for target, mean in zip(targets, means, strict=True))
    best = float(np.max([source.quantiles[-1] for source in sources]))
    return drawing(
        figure,
        "Asked for and achieved",
        f"Mean return for each return asked for: {said}. The data's best episode has {best:.4g}.",
        "On the dashed line the episode gets what was asked for. Where the data has no episodes, nothing is learnt.",
    )
