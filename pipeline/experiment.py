"""All configurations side by side, and the rules between them."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline.collection.config import CollectConfig
from pipeline.configuration import VOLATILE, Config, claimed_identity
from pipeline.data.config import DataConfig
from pipeline.environments import EnvironmentConfig
from pipeline.errors import ConfigError
from pipeline.evaluation.config import EvaluationConfig, SweepConfig
from pipeline.models.config import ModelConfig
from pipeline.planning.config import PlanningConfig
from pipeline.run_folder import RunFolder
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

    @model_validator(mode="after")
    def _rewards_and_values_are_discounted_alike(self) -> "Experiment":
        if self.planning.discount != self.data.discount:
            raise ConfigError(
                f"planning.discount is {self.planning.discount}; expected data.discount, {self.data.discount}: a "
                "plan's rewards are added to a value that the model learnt with that discount. Set both, and prepare "
                "and train under another --name."
            )
        return self


Stage = Literal["collect", "prepare", "train", "evaluate"]

_SECTIONS: dict[Stage, tuple[str, ...]] = {
    "collect": ("environment", "collect"),
    "prepare": ("environment", "collect", "data"),
    "train": ("model", "training"),
    "evaluate": ("environment", "planning"),
}
"""Which sections of the settings decide what a stage makes."""


def stage_identity(experiment: Experiment, stage: Stage) -> dict[str, Any]:
    """Returns the settings that decide what a stage makes, for `claim_folder`.

    Given data is prepared whatever else was collected, or how.
    """
    sections = ("data",) if stage == "prepare" and experiment.data.sources else _SECTIONS[stage]
    return {"seed": experiment.seed, **{name: getattr(experiment, name).identity() for name in sections}}


def as_made(experiment: Experiment, run: RunFolder) -> dict[str, Any]:
    """Returns the experiment as nested plain values, with the settings that made what lies in the run's folders.

    Every job is given all settings, but only those of its own stage have an effect. The others must not take the place
    of those that another stage ran with: the record would name settings that nothing was made with.
    """
    values = experiment.model_dump(mode="json")
    for made in _made(run):
        values["seed"] = made.pop("seed", values["seed"])
        for section, settings in made.items():
            # A setting that this version does not know any more is left out, so that the record can be read.
            values[section] = {name: settings.get(name, value) for name, value in values[section].items()}
    return values


def _made(run: RunFolder) -> list[dict[str, Any]]:
    """Returns the sections that each stage was run with, and its seed, as its folder was claimed with them."""
    folders: dict[Stage, Path] = {
        "collect": run.behaviour,
        "prepare": run.shards,
        "train": run.checkpoints,
        # The only method that all planning settings act on. Its seed is that of the training.
        "evaluate": run.episodes("trajectory_transformer"),
    }
    made = []
    for stage, folder in folders.items():
        claimed = claimed_identity(folder) or {}
        names = _SECTIONS[stage] if stage == "evaluate" else ("seed", *_SECTIONS[stage])
        made.append({name: claimed[name] for name in names if name in claimed})
    return made
