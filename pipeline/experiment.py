"""All configurations side by side, the rules between them, and the command line that makes them."""

from pydantic import Field, model_validator

from pipeline.collection.config import CollectConfig
from pipeline.configuration import VOLATILE, Config
from pipeline.data.config import DataConfig
from pipeline.environments import EnvironmentConfig
from pipeline.errors import ConfigError
from pipeline.evaluation.config import EvaluationConfig, SweepConfig
from pipeline.models.config import ModelConfig
from pipeline.planning.config import PlanningConfig
from pipeline.training.config import TrainingConfig


class Experiment(Config):
    """One experiment, from behaviour to report."""

    name: str = Field(
        "experiment",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name of the run's folder.",
        json_schema_extra=VOLATILE,
    )
    runs: str = Field(
        "runs",
        description="Folder that holds the runs' folders; shared by all nodes of a cluster.",
        json_schema_extra=VOLATILE,
    )
    seed: int = Field(0, ge=0, description="Root of every random number.")
    environment: EnvironmentConfig = EnvironmentConfig()
    collect: CollectConfig = CollectConfig()
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    planning: PlanningConfig = PlanningConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    sweep: SweepConfig = SweepConfig()

    @model_validator(mode="after")
    def _context_fits_the_window(self) -> "Experiment":
        if self.planning.context_transitions + 1 > self.model.window_transitions:
            raise ConfigError(
                f"planning.context_transitions is {self.planning.context_transitions}; expected less than "
                f"model.window_transitions, {self.model.window_transitions}, which must hold the current one too."
            )
        return self
