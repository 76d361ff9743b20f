"""Bin edges from the first pass, stored so that an interrupted preparation need not make it again."""

import io
import json
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.data.config import DataConfig, Store
from pipeline.data.manifest import read_manifest
from pipeline.data.spaces import Spaces
from pipeline.data.summary import Summary
from pipeline.errors import DataError, ManifestError
from pipeline.stored import npz_arrays
from pipeline.tokens.discretizer import Discretizer
from pipeline.tokens.fitting import DimensionNames, fit_discretizer, require_states
from pipeline.tokens.layout import TransitionLayout

_SUMMARY = "summary."
_MOST_BYTES = 2**34
"""Some numbers for each episode, of which there may be hundreds of millions."""


@dataclass(frozen=True)
class Fit:
    """Bin edges, and what the statistics say.

    Attributes:
        summary: Of all episodes, without the sample.
        discretizer: The edges found.
        distinct: (D,) different values of each column in the sample.
        sampled_steps: Size of the sample.
    """

    summary: Summary
    discretizer: Discretizer
    distinct: NDArray[np.int64]
    sampled_steps: int

    def to_bytes(self, key: str) -> bytes:
        """Returns the fit as an `.npz`.

        Args:
            key: Names what it was made from; `from_bytes` wants the same.
        """
        layout = self.discretizer.layout
        facts = {
            "key": key,
            "sampled_steps": self.sampled_steps,
            "action_dim": layout.action_dim,
            "num_bins": layout.num_bins,
            "bins": layout.bins,
            "observation_names": layout.observation_names,
        }
        arrays = {f"{_SUMMARY}{name}": array for name, array in vars(self.summary).items()}
        buffer = io.BytesIO()
        np.savez(
            buffer,
            allow_pickle=False,
            facts=np.array(json.dumps(facts)),
            edges=self.discretizer.edges,
            centers=self.discretizer.centers,
            distinct=self.distinct,
            **arrays,
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, key: str) -> "Fit | None":
        """Returns the fit that `to_bytes` wrote with the same key, None if it was another one or is damaged."""
        try:
            arrays = npz_arrays(content, _MOST_BYTES)
            facts = json.loads(str(arrays["facts"]))
        except (ValueError, KeyError):
            return None
        if facts["key"] != key:
            return None
        names = tuple(facts["observation_names"])
        layout = TransitionLayout(len(names), facts["action_dim"], facts["num_bins"], tuple(facts["bins"]), names)
        summary = {name.removeprefix(_SUMMARY): array for name, array in arrays.items() if name.startswith(_SUMMARY)}
        discretizer = Discretizer(layout, arrays["edges"], arrays["centers"])
        return cls(Summary(**summary), discretizer, arrays["distinct"], facts["sampled_steps"])


def fit_summary(summary: Summary, config: DataConfig, spaces: Spaces) -> Fit:
    """Returns the bin edges that follow from the summary of all episodes, whose sample is used up: it is sorted.

    Raises:
        DataError: No valid episode is left, or a column holds a state that it cannot be in.
        ConfigError: A column that is counted has more states than `data.num_bins`.
        ManifestError: The edges are those of another manifest, which has other columns or fewer states.
    """
    if not len(summary.ids):
        raise DataError(
            f"all {len(summary.invalid_ids)} episodes are invalid; expected at least one valid episode. The first: "
            f"{summary.complaints[0]}."
        )
    # One sort of each column for all that follows, in place: a copy would be a third of the driver's memory.
    ordered = np.asfortranarray(summary.sample)
    ordered.sort(axis=0)
    distinct = 1 + (ordered[1:] != ordered[:-1]).sum(axis=0)
    discretizer = _discretizer(replace(summary, sample=ordered), config, spaces)
    return Fit(summary.without_sample(), discretizer, distinct, len(ordered))


def _discretizer(summary: Summary, config: DataConfig, spaces: Spaces) -> Discretizer:
    names = dimension_names(spaces, config.store)
    require_states(names, summary.lowest, summary.highest)
    if config.discretizer_from is None:
        return fit_discretizer(
            summary.sample, summary.lowest, summary.highest, names, config.discretizer, config.num_bins
        )
    given = read_manifest(config.discretizer_from).discretizer
    layout = given.layout
    if (layout.observation_names, layout.action_dim) != (spaces.observation_names, spaces.action_dim):
        raise ManifestError(
            f"data.discretizer_from is {config.discretizer_from!r}, with {layout.observation_dim} observation and "
            f"{layout.action_dim} action columns; expected {spaces.observation_dim} and {spaces.action_dim} of the "
            "same names as the data's."
        )
    for column, states in names.counted.items():
        if not _tells_apart(given, column, states):
            raise ManifestError(
                f"data.discretizer_from is {config.discretizer_from!r}, where {names.name(column)} has "
                f"{layout.bins[column]} bins; expected a bin for each of the {len(states)} values that it can have."
            )
    return given


def dimension_names(spaces: Spaces, store: Store) -> DimensionNames:
    """Returns what the columns are; where no tokens are stored, none needs a bin for each of its states."""
    states = () if store == "values" else spaces.column_states
    return DimensionNames(spaces.observation_names, spaces.action_dim, states)


def _tells_apart(discretizer: Discretizer, column: int, states: range) -> bool:
    """Returns whether every state of a column has a token that decodes to it."""
    values, columns = np.array(states, dtype=np.float64)[:, None], slice(column, column + 1)
    return np.array_equal(discretizer.decode_columns(discretizer.encode_columns(values, columns), columns), values)
