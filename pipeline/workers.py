"""The workers that train: how many, what each of them gets, and what is done where they are missing or lost."""

from pydantic import Field, model_validator

from pipeline.configuration import VOLATILE, Config
from pipeline.errors import ConfigError


class WorkersConfig(Config):
    """Ray Train's workers. They change how a training runs, not what it learns."""

    number: int | tuple[int, int] = Field(
        1, description="Ray Train workers, or [min, max] for elastic training.", json_schema_extra=VOLATILE
    )
    cpus: float | None = Field(
        None, gt=0, description="CPUs of a worker; null shares out the cluster's.", json_schema_extra=VOLATILE
    )
    gpus: float | None = Field(
        None,
        ge=0,
        description="GPUs of a worker; null takes 1 where there is one for each worker, 0 where there is none at all.",
        json_schema_extra=VOLATILE,
    )
    resize_interval_s: float = Field(
        60.0,
        gt=0,
        description="Seconds between two looks for room for more workers, where their number is [min, max]. A new "
        "size starts from the last checkpoint.",
        json_schema_extra=VOLATILE,
    )
    start_timeout_s: float = Field(
        1800.0,
        gt=0,
        description="Seconds that the cluster has to make room for the workers, at the start and after a loss, and "
        "for the tasks that read where windows are streamed.",
        json_schema_extra=VOLATILE,
    )
    max_failures: int = Field(
        3,
        ge=0,
        description="Restarts after lost workers before the job gives up; workers that were told to end, by SIGTERM or "
        "because their node is drained, do not count.",
        json_schema_extra=VOLATILE,
    )

    @property
    def range(self) -> tuple[int, int]:
        """The minimum and the maximum number of workers."""
        return (self.number, self.number) if isinstance(self.number, int) else self.number

    @model_validator(mode="after")
    def _is_a_number_or_a_range(self) -> "WorkersConfig":
        minimum, maximum = self.range
        if not 1 <= minimum <= maximum:
            raise ConfigError(f"workers.number is {self.number}; expected a number of at least 1, or [min, max].")
        return self
