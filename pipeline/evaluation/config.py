"""Which methods are evaluated, on how many episodes, with which resources, and which settings a sweep tries."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from pipeline.configuration import VOLATILE, Config
from pipeline.errors import ConfigError
from pipeline.findings import expected
from pipeline.planning.config import PlanningConfig

MethodName = Literal["random", "behaviour_cloning", "trajectory_transformer"]


class EvaluationConfig(Config):
    """Episodes of each method in the environment."""

    methods: tuple[MethodName, ...] = Field(
        ("random", "behaviour_cloning", "trajectory_transformer"),
        description="Methods to compare: random, behaviour_cloning (the same model, horizon 1, ranked by likelihood), "
        "trajectory_transformer.",
        json_schema_extra=VOLATILE,
    )
    episodes: int = Field(
        20, ge=1, description="Episodes of each method; more later extend the same result.", json_schema_extra=VOLATILE
    )
    batch_size: int = Field(8, ge=1, description="Episodes that one actor plans for in one call.")
    # What the results depend on is the model's checksum, which the results' identity has; its folder may move.
    checkpoint: str | None = Field(
        None,
        description="Checkpoint folder; null takes the run's best by validation loss.",
        json_schema_extra=VOLATILE,
    )
    reference: Literal["auto", "d4rl", "minari", "none"] = Field(
        "auto",
        description="What 0 and 100 of the normalised score are: D4RL's constants, the reference scores in the data "
        "sets' Minari metadata, or none; auto takes Minari's where there are some, else D4RL's.",
        json_schema_extra=VOLATILE,
    )
    videos: int = Field(
        0, ge=0, description="Episodes of each planning method that are filmed.", json_schema_extra=VOLATILE
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
        description="Seconds without an answer after which an actor counts as lost; well above loading the model and "
        "one decision.",
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


class SweepConfig(Config):
    """Which planning settings jobs/sweep.py tries, and how it chooses."""

    space: dict[str, Annotated[list[Any], Field(min_length=1)] | RangeConfig] = Field(
        {"planning.beam_width": [32, 64, 128], "planning.horizon": [5, 10, 15]},
        description="Values of each planning setting; the grid is their product. For random and optuna also a range: "
        "{low, high, log, integer}.",
        min_length=1,
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
    def _space_names_planning_settings(self) -> "SweepConfig":
        for path, values in self.space.items():
            section, _, name = path.partition(".")
            # Not the discount: it is that of the values that the model learnt.
            names = [field for field in PlanningConfig.model_fields if field != "discount"]
            if section != "planning" or name not in names:
                choices = ", ".join(f"planning.{field}" for field in names)
                raise ConfigError(f"sweep.space has the key {path!r}; expected one of {choices}.")
            if isinstance(values, RangeConfig) and self.search == "grid":
                raise ConfigError(
                    f"sweep.space has a range for {path} and sweep.search is 'grid'; expected a list of values, "
                    "or sweep.search random or optuna."
                )
            for value in values.ends if isinstance(values, RangeConfig) else values:
                _check_planning_value(name, value, isinstance(values, RangeConfig))
        return self


def _check_planning_value(name: str, value: Any, of_a_range: bool) -> None:
    try:
        PlanningConfig.model_validate({name: value})
    except ValidationError as error:
        detail = error.errors()[0]
        if of_a_range and detail["type"] == "int_from_float":
            raise ConfigError(
                f"sweep.space has a range of fractions for planning.{name}; expected whole numbers: add integer: true."
            ) from error
        raise ConfigError(f"sweep.space tries {value!r} for planning.{name}; expected {expected(detail)}.") from error
