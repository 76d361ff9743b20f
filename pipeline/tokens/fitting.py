"""Where the bin edges of each dimension lie, given the values that it takes.

Both kinds are functions of the sorted values alone, so neither the order of the data nor who read it matters.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError, DataError
from pipeline.tokens.discretizer import Discretizer
from pipeline.tokens.layout import TransitionLayout

DiscretizerKind = Literal["quantile", "uniform"]
Bins = tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]


@dataclass(frozen=True)
class DimensionNames:
    """What the columns of a table of transitions are, before bins are known.

    Attributes:
        observations: One name per observation column.
        action_dim: A, action columns.
        states: What each observation and action column can be, which gets a bin each: the states of a discrete
            observation, the choices of an action; None for a column of any numbers. () where no column is counted so.
    """

    observations: tuple[str, ...]
    action_dim: int
    states: tuple[range | None, ...] = ()

    @property
    def counted(self) -> dict[int, range]:
        """The states of those columns that have such, by column."""
        return {column: states for column, states in enumerate(self.states) if states is not None}

    def name(self, column: int) -> str:
        """Returns the name of an observation or action column."""
        own = len(self.observations)
        return self.observations[column] if column < own else f"action[{column - own}]"


def fit_discretizer(
    sample: NDArray[np.float64],
    lowest: NDArray[np.float64],
    highest: NDArray[np.float64],
    names: DimensionNames,
    kind: DiscretizerKind,
    num_bins: int,
) -> Discretizer:
    """Returns the discretizer of transitions like `sample`.

    Args:
        sample: (S, D) transitions, all of them or a sample.
        lowest: (D,) smallest value over all transitions, also those outside the sample.
        highest: (D,) largest.
        names: What the columns are.
        kind: `quantile` or `uniform`, see `quantile_bins` and `uniform_bins`.
        num_bins: N, the most bins of a dimension.

    Raises:
        ConfigError: A column has more states than `num_bins`.
    """
    require_bins(names, num_bins)
    counted = names.counted
    edges, centers = [], []
    for column in range(sample.shape[1]):
        if column in counted:
            bins = state_bins(counted[column])
        elif kind == "uniform":
            bins = uniform_bins(float(lowest[column]), float(highest[column]), num_bins)
        else:
            bins = quantile_bins(_with_extremes(sample[:, column], lowest[column], highest[column]), num_bins)
        edges.append(bins[0])
        centers.append(bins[1])
    counts = tuple(len(row) for row in centers)
    layout = TransitionLayout(len(names.observations), names.action_dim, num_bins, counts, names.observations)
    return Discretizer.from_rows(layout, edges, centers)


def uniform_bins(lowest: float, highest: float, num_bins: int) -> Bins:
    """Returns edges and centres of `num_bins` bins of equal width; a constant dimension has one bin."""
    if lowest == highest:
        return np.array([lowest, lowest]), np.array([lowest])
    edges = np.linspace(lowest, highest, num_bins + 1)
    return edges, edges[:-1] / 2 + edges[1:] / 2


def state_bins(states: range) -> Bins:
    """Returns edges and centres of a column that is counted: a bin for each state, whether the data has it or not."""
    numbers = np.array(states, dtype=np.float64)
    return np.append(numbers - 0.5, numbers[-1] + 0.5), numbers


def require_bins(names: DimensionNames, num_bins: int) -> None:
    """Checks that every state of every column can have a token of its own.

    Raises:
        ConfigError: A column has more states than `num_bins`.
    """
    most = max(names.counted, key=lambda column: len(names.counted[column]), default=None)
    if most is not None and (count := len(names.counted[most])) > num_bins:
        raise ConfigError(
            f"data.num_bins is {num_bins}; expected at least {count} (65535 is the most), a bin for each of the values "
            f"that {names.name(most)} can have, or data.store values, for methods that read no tokens."
        )


def require_states(names: DimensionNames, lowest: NDArray[np.float64], highest: NDArray[np.float64]) -> None:
    """Checks that no column holds a state that it cannot be in, whose token would be that of another.

    Args:
        names: What the columns are.
        lowest: (D,) smallest value over all transitions.
        highest: (D,) largest.

    Raises:
        DataError: One does.
    """
    for column, states in names.counted.items():
        if lowest[column] < states[0] or highest[column] > states[-1]:
            raise DataError(
                f"{names.name(column)} goes from {lowest[column]:g} to {highest[column]:g} in the data; expected "
                f"{states[0]} to {states[-1]}, as its space says. Mix only data sets of one environment."
            )


def quantile_bins(values: NDArray[np.float64], num_bins: int) -> Bins:
    """Returns edges and centres at the quantiles of `values`.

    Without ties these are the paper's: N + 1 edges at the quantiles 0, 1/N, ..., 1 and centres in the middle. Where
    values repeat, quantiles coincide, and the released code then silently emits fewer bins whose centres nobody took.
    Here:

    - At most N distinct values: one bin for each, with that value as its centre and borders half way between them. So
      a constant dimension has one bin, and rewards of 0 and 1 have two.
    - Otherwise a value that more than 2 of N bins' share of the data takes (an action at its bound) gets a bin of its
      own, which decodes to exactly that value; each costs at most two bins, and all other values share what is left
      by their own quantiles. Equal edges that remain are one edge.

    Args:
        values: (S,) in any order.
        num_bins: N, the most bins.

    Source: Janner et al. 2021, section 3.1 and its released code for data without ties; the rest is ours.
    """
    # stable: where the caller has sorted already, this sort is a hundred times faster than the default one.
    ordered = np.sort(values, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    distinct, counts = ordered[starts], np.diff(starts, append=len(ordered))
    if len(distinct) <= num_bins:
        return _borders_between(distinct), distinct
    heavy = distinct[counts * num_bins > 2 * len(ordered)]
    light = ordered[~np.isin(ordered, heavy)] if len(heavy) else ordered
    quantiles = np.quantile(light, np.linspace(0, 1, num_bins - 2 * len(heavy) + 1))
    # A bin from v to the next number above v holds v alone.
    edges = np.unique(np.concatenate([quantiles, heavy, np.nextafter(heavy, np.inf)]))
    centers = edges[:-1] / 2 + edges[1:] / 2
    centers[np.searchsorted(edges, heavy)] = heavy
    return edges, centers


def _with_extremes(values: NDArray[np.float64], lowest: float, highest: float) -> NDArray[np.float64]:
    """Returns `values` and those of the extremes that a sample has missed."""
    missed = [extreme for extreme in {lowest, highest} if not values.min() <= extreme <= values.max()]
    return np.concatenate([values, missed]) if missed else values


def _borders_between(distinct: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the outer values and the middles between neighbours: (k,) to (k + 1,)."""
    low, high = distinct[:-1], distinct[1:]
    middles = low / 2 + high / 2
    # Between neighbouring floats there is no middle; the border must still lie above the lower one.
    middles = np.where(middles > low, middles, high)
    return np.concatenate([distinct[:1], middles, distinct[-1:]])
