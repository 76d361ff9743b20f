"""Which columns are too many to be learnt from, or have too many states: refused before an episode is read."""

from pipeline.data.config import DataConfig
from pipeline.data.fit import dimension_names
from pipeline.data.spaces import Spaces
from pipeline.errors import DataError
from pipeline.tokens.fitting import require_bins


def require_learnable(spaces: Spaces, config: DataConfig) -> None:
    """Checks that the columns are of a number that a model can have, and their states of a number that tokens can have.

    Args:
        spaces: Of the data.
        config: Sets the limits.

    Raises:
        DataError: More columns than the limit.
        ConfigError: Fewer bins than a column has states.
    """
    columns, most = spaces.observation_dim, config.max_observation_columns
    if columns > most:
        raise DataError(
            f"an observation of the data has {columns} columns; expected at most data.max_observation_columns, {most}, "
            "as images are not supported. Choose some with data.observation_keys or data.observation_columns, or raise "
            "the limit for what is no image."
        )
    if config.discretizer_from is None:
        require_bins(dimension_names(spaces, config.store), config.num_bins)
