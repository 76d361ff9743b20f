"""Which rows are evaluated, on how many episodes, with which resources, and which settings a sweep tries."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.configuration import VOLATILE, Config, Place
from pipeline.errors import ConfigError


class EvaluationConfig(Config):
    """Episodes of each row of the table in the environment."""

    rows: tuple[str, ...] | None = Field(
        None,
        description="What acts, a line of the table each: random, and the ways in which the method's model can act "
        "(trajectory_transformer: one_step, imitation, trajectory_transformer; the other methods: their own name). "
        "null takes random and what is compared as a rule, which leaves out imitation.",
        json_schema_extra=VOLATILE,
    )
    episodes: int = Field(
        20, ge=1, description="Episodes of each row; more later extend the same result.", json_schema_extra=VOLATILE
    )
    batch_size: int = Field(8, ge=1, description="Episodes that one actor decides for in one call.")
    # What the results depend on is the model's checksum, which the results' identity has; its folder may move.
    checkpoint: Place | None = Field(
        None,
        description="Checkpoint folder; null takes the run's best by training.select_by.",
        json_schema_extra=VOLATILE,
    )
    reference: Literal["auto", "d4rl", "minari", "none"] = Field(
        "auto",
        description="What 0 and 100 of the normalised score are: D4RL's constants, the reference scores in the data "
        "sets' Minari metadata, or none; auto takes Minari's where there are some, else D4RL's.",
        json_schema_extra=VOLATILE,
    )
    videos: int = Field(
        0, ge=0, description="Episodes of each row with a model that are filmed.", json_schema_extra=VOLATILE
    )
    num_actors: int | None = Field(
        None,
        ge=1,
        description="Ray actors, at most; null fills the machine, and asks a cluster (RAY_ADDRESS) for as many as get "
        "something to do, so that it grows.",
        json_schema_extra=VOLATILE,
    )
    cpus_per_actor: int = Field(1, ge=1, description="CPUs and torch threads of an actor.")
    gpus_per_actor: float = Field(0.0, ge=0, description="GPUs of an actor; fractions share one.")
    max_attempts: int = Field(
        3, ge=1, description="Starts of an episode before a lost actor is given up on.", json_schema_extra=VOLATILE
    )
    start_timeout_s: float = Field(
        600.0, gt=0, description="Seconds to wait for the first actor or trial to start.", json_schema_extra=VOLATILE
    )
    call_timeout_s: float = Field(
        600.0,
        gt=0,
        description="Seconds without an answer after which an actor counts as lost; well above loading the model and, "
        "for the planner's first episode, the plans that fill its context.",
        json_schema_extra=VOLATILE,
    )


class RangeConfig(Config):
    """Numbers that a random or Optuna search draws from."""

    low: float = Field(..., description="Smallest value.")
    high: float = Field(..., description="Largest value, included.")
    log: bool = Field(False, description="Draw uniformly on the logarithm.")
    integer: bool = Field(False, description="Draw whole numbers.")

    @model_validator(mode="after")
    def _low_is_below_high(self) -> "RangeConfig":
        if not self.low < self.high or (self.log and self.low <= 0):
            rule = "0 < low < high" if self.log else "low < high"
            raise ConfigError(f"sweep.space has a range from {self.low:g} to {self.high:g}; expected {rule}.")
        return self

    @property
    def ends(self) -> list[int] | list[float]:
        """The least and the greatest value, of the type that is drawn."""
        # A hair inside: a range of fractions for a setting of whole numbers must not pass by its whole ends.
        return [int(self.low), int(self.high)] if self.integer else [self.low, self.high * (1 - 1e-9)]


Values = Annotated[list[Any], Field(min_length=1)] | RangeConfig
"""What a sweep tries for one setting."""


class SweepConfig(Config):
    """Which settings of acting jobs/sweep.py tries, and how it chooses."""

    space: Annotated[dict[str, Values], Field(min_length=1)] | None = Field(
        None,
        description="Values of each setting (planning.*, or decision_transformer.target_return and .context_steps); "
        "the grid is their product. For random and optuna also a range: {low, high, log, integer}. null takes some of "
        "the method's.",
    )
    search: Literal["grid", "random", "optuna"] = Field(
        "grid", description="All combinations, or `samples` of them drawn at random or by Optuna's TPE."
    )
    samples: int = Field(
        20, ge=1, description="Settings that random and optuna try; more later go on.", json_schema_extra=VOLATILE
    )
    episodes: int = Field(8, ge=1, description="Episodes of each setting.", json_schema_extra=VOLATILE)
    early_stopping: bool = Field(
        False, description="End poor settings early (asynchronous successive halving over episodes)."
    )
    report_every: int | None = Field(
        None, ge=1, description="Episodes between two reports to early stopping; null takes evaluation.batch_size."
    )
    reduction_factor: float = Field(2.0, gt=1, description="Early stopping keeps one of this many at each rung.")
    objective: Literal["mean_return", "iqm_return", "median_return"] = Field(
        "mean_return", description="What is maximised.", json_schema_extra=VOLATILE
    )
    max_decision_ms: float | None = Field(
        None,
        gt=0,
        description="Settings whose median decision takes longer, in milliseconds, are never chosen; null allows all.",
        json_schema_extra=VOLATILE,
    )

    @model_validator(mode="after")
    def _ranges_are_searched(self) -> "SweepConfig":
        for path, values in (self.space or {}).items():
            if isinstance(values, RangeConfig) and self.search == "grid":
                raise ConfigError(
                    f"sweep.space has a range for {path} and sweep.search is 'grid'; expected a list of values, "
                    "or sweep.search random or optuna."
                )
        return self
