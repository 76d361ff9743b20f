"""Which episodes are read, and how they become shards."""

from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline.configuration import VOLATILE, Config, Place
from pipeline.data.returns import RewardTreatment
from pipeline.errors import ConfigError

Store = Literal["tokens", "values", "both"]


class SourceConfig(Config):
    """One dataset, or a glob of them."""

    id: Place = Field(
        ...,
        description="Minari id, with *, ? and {a,b} as in mujoco/hopper/{medium,expert}-v0, or the path or URI of a "
        "D4RL HDF5 file (*.hdf5). Every match is a source of its own; a path that is there is taken as it stands.",
    )
    root: Place | None = Field(
        None,
        description="Folder or URI of Minari datasets; null is MINARI_DATASETS_PATH, else Minari's own default, or on "
        "a cluster (RAY_ADDRESS) `datasets` beside the runs.",
    )
    share: float = Field(1.0, gt=0, le=1, description="Share of its episodes, drawn by the seed; above 0, at most 1.")
    max_steps: int | None = Field(
        None, ge=1, description="Cap: episodes drawn by the seed until they have this many steps; null takes all."
    )


class DataConfig(Config):
    """Sources, discretisation, and the shards that come of them."""

    sources: tuple[SourceConfig, ...] = Field(
        (), description="Datasets to mix; empty takes what jobs/collect.py wrote into this run."
    )
    download: bool = Field(
        True,
        description="Fetch data sets without a root that are not there from the Minari hub (needs minari[hf]).",
        json_schema_extra=VOLATILE,
    )
    observation_keys: tuple[str, ...] | None = Field(
        None, description="Keys of a Dict observation in the order to flatten them; null takes all, alphabetically."
    )
    observation_columns: tuple[str, ...] | None = Field(
        None, description="Columns of the flattened observation to keep, such as ['0:27', '30']; null keeps all."
    )
    max_episode_steps: int | None = Field(
        None,
        ge=1,
        description="Time limit that data was collected with which does not mark where it ended an episode: after so "
        "many steps without an end there is one. null takes the marks alone, and refuses D4RL files that lack them.",
    )
    max_observation_columns: int = Field(
        500,
        ge=1,
        description="Most columns of an observation, at least 1; data with more, such as images, is refused. "
        "(Humanoid-v4 has 376. The Trajectory Transformer makes a token of each.)",
        json_schema_extra=VOLATILE,
    )
    on_invalid: Literal["refuse", "drop"] = Field(
        "refuse",
        description="Episodes without steps, without one observation more than steps, or with NaN or infinite values: "
        "stop with an error, or leave them out and count them.",
    )
    discretizer: Literal["quantile", "uniform"] = Field(
        "quantile", description="Bin edges at the quantiles of each dimension, or of equal width."
    )
    discretizer_from: Place | None = Field(
        None, description="Folder or URI of shards whose bin edges are taken over instead of fitting new ones."
    )
    num_bins: int = Field(
        100,
        ge=2,
        le=65_535,
        description="Bins per dimension, 2 to 65535 (100 in the paper). Discrete observations and actions, and actions "
        "that are whole numbers, have one for each of their values, which must not be more.",
    )
    sample_numbers: int = Field(
        32_000_000,
        ge=1,
        description="Quantiles are exact up to this many numbers, steps times columns (2 million steps of Hopper); "
        "beyond, they are those of about so many, drawn by the seed. The driver holds 8 bytes for each.",
    )
    discount: float = Field(0.99, gt=0, le=1, description="Discount g of the value to go, above 0, at most 1.")
    termination_penalty: float | None = Field(
        None,
        description="Replaces the reward of a terminal last step before values are computed "
        "(-100 in the released code); null keeps the reward. Only tokens have it.",
    )
    delay_rewards: bool = Field(
        False, description="Give each episode's whole return at its last step, and no reward before."
    )
    store: Store = Field(
        "both",
        description="What shards hold of each step: tokens (for trajectory_transformer), values in float32 (for the "
        "other methods), or both.",
    )
    validation_share: float = Field(
        0.05, ge=0, lt=1, description="Share of episodes held out for the validation loss, 0 to below 1."
    )
    steps_per_shard: int = Field(100_000, ge=1, description="Environment steps per Parquet shard, about.")
    steps_per_row: int = Field(
        10_000,
        ge=1,
        description="Longer episodes are split into rows of this many steps; a row group has about as many.",
    )
    output: Place | None = Field(
        None, description="Folder or URI (s3://...) of the shards; null is `shards` in the run's folder."
    )
    num_workers: int | None = Field(
        None, ge=1, description="Ray Data tasks at once; null takes one for each CPU.", json_schema_extra=VOLATILE
    )
    timeout_s: float = Field(
        900.0,
        gt=0,
        description="Seconds without the next shard's worth of steps after which the stage gives up.",
        json_schema_extra=VOLATILE,
    )

    @property
    def reward_treatment(self) -> RewardTreatment:
        """What is done with the rewards."""
        return RewardTreatment(
            discount=self.discount, termination_penalty=self.termination_penalty, delayed=self.delay_rewards
        )

    @model_validator(mode="after")
    def _last_reward_is_penalty_or_return(self) -> "DataConfig":
        if self.delay_rewards and self.termination_penalty is not None:
            raise ConfigError(
                f"data.termination_penalty is {self.termination_penalty} and data.delay_rewards is true; expected one "
                "or the other: the penalty would take the place of the whole return."
            )
        return self

    def preparation(self) -> dict[str, Any]:
        """Returns the identity of what is done with the sources, whichever they are and wherever the shards go."""
        return self.model_copy(update={"output": None, "sources": ()}).identity()
