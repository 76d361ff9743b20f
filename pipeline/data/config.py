"""Which episodes are read, and how they become token shards."""

from typing import Literal

from pydantic import Field

from pipeline.configuration import VOLATILE, Config


class SourceConfig(Config):
    """One dataset, or a glob of them."""

    id: str = Field(..., description="Minari id (globs and {a,b} allowed), or the path of a D4RL HDF5 file.")
    root: str | None = Field(
        None, description="Folder of Minari datasets; null is MINARI_DATASETS_PATH, else Minari's own default."
    )


class DataConfig(Config):
    """Sources, discretisation, and the shards that come of them."""

    sources: tuple[SourceConfig, ...] = Field(
        (), description="Datasets to mix; empty takes what jobs/collect.py wrote into this run."
    )
    discretizer: Literal["quantile", "uniform"] = Field(
        "quantile", description="Bin edges at the quantiles of each dimension, or of equal width."
    )
    num_bins: int = Field(100, ge=2, le=65_535, description="Bins per dimension, 2 to 65535 (100 in the paper).")
    discount: float = Field(0.99, gt=0, le=1, description="Discount g of the value to go, above 0, at most 1.")
    termination_penalty: float | None = Field(
        None,
        description="Replaces the reward of a terminal last step before values are computed "
        "(-100 in the released code); null keeps the reward.",
    )
    validation_share: float = Field(
        0.05, ge=0, lt=1, description="Share of episodes held out for the validation loss, 0 to below 1."
    )
    steps_per_shard: int = Field(100_000, ge=1, description="Environment steps per Parquet shard, about.")
    num_workers: int | None = Field(
        None, ge=1, description="Ray Data tasks at once; null takes one for each CPU.", json_schema_extra=VOLATILE
    )
