"""All configurations side by side, and the rules between them."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline.acting import RANDOM
from pipeline.collection.config import CollectConfig
from pipeline.configuration import VOLATILE, Config, Place, claimed_identity
from pipeline.data.config import DataConfig
from pipeline.environments import EnvironmentConfig
from pipeline.errors import ConfigError
from pipeline.evaluation.config import EvaluationConfig, SweepConfig
from pipeline.methods.behaviour_cloning.config import BehaviourCloningConfig
from pipeline.methods.decision_transformer.config import DecisionTransformerConfig
from pipeline.methods.settings import MethodSettings
from pipeline.methods.trajectory_transformer.config import TrajectoryTransformerConfig
from pipeline.planning.config import PlanningConfig
from pipeline.run_folder import RunFolder
from pipeline.training.config import TrainingConfig
from pipeline.workers import WorkersConfig


class Experiment(Config):
    """One experiment, from behaviour to report."""

    name: str = Field(
        "experiment",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name of the run's folder.",
        json_schema_extra=VOLATILE,
    )
    runs: Place = Field(
        "runs",
        description="Folder that holds the runs' folders; shared by all nodes of a cluster.",
        json_schema_extra=VOLATILE,
    )
    seed: int = Field(0, ge=0, description="Root of every random number.")
    environment: EnvironmentConfig = EnvironmentConfig()
    collect: CollectConfig = CollectConfig()
    data: DataConfig = DataConfig()
    method: str = Field("trajectory_transformer", description="What is trained; its section has its settings.")
    trajectory_transformer: TrajectoryTransformerConfig = TrajectoryTransformerConfig()
    decision_transformer: DecisionTransformerConfig = DecisionTransformerConfig()
    behaviour_cloning: BehaviourCloningConfig = BehaviourCloningConfig()
    training: TrainingConfig = TrainingConfig()
    workers: WorkersConfig = WorkersConfig()
    planning: PlanningConfig = PlanningConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    sweep: SweepConfig = SweepConfig()

    @classmethod
    def method_names(cls) -> list[str]:
        """Returns the methods that there are: the sections of one."""
        return [name for name, field in cls.model_fields.items() if isinstance(field.default, MethodSettings)]

    @property
    def settings(self) -> MethodSettings:
        """The section of the method."""
        settings: MethodSettings = getattr(self, self.method)
        return settings

    @property
    def row_kinds(self) -> tuple[str, ...]:
        """What is evaluated."""
        rows = self.evaluation.rows
        return (RANDOM, *self.settings.default_rows) if rows is None else tuple(dict.fromkeys(rows))

    @model_validator(mode="after")
    def _runs_lie_in_a_folder(self) -> "Experiment":
        if "://" in self.runs:
            raise ConfigError(
                f"runs is {self.runs!r}; expected a folder: runs cannot lie on an object store. Mount it and give the "
                "path; shards alone may lie there (data.output)."
            )
        return self

    @model_validator(mode="after")
    def _method_and_rows_exist(self) -> "Experiment":
        if self.method not in self.method_names():
            raise ConfigError(f"method is {self.method!r}; expected one of {', '.join(self.method_names())}.")
        known = (RANDOM, *self.settings.row_kinds)
        for kind in self.row_kinds:
            if kind not in known:
                raise ConfigError(
                    f"evaluation.rows has {kind!r}; expected some of {', '.join(known)}, as {self.method} can act."
                )
        return self

    @model_validator(mode="after")
    def _checkpoints_are_selected_by_a_measure(self) -> "Experiment":
        self.training.require_selection(self.settings.measures, self.method, self.data.validation_share > 0)
        return self

    @model_validator(mode="after")
    def _every_micro_batch_has_a_window(self) -> "Experiment":
        training, workers = self.training, self.workers.range[1]
        parts = workers * training.accumulation_steps
        if training.batch_size < parts:
            raise ConfigError(
                f"training.batch_size is {training.batch_size}; expected at least {parts}, one window for each "
                f"micro-batch: {workers} workers * training.accumulation_steps {training.accumulation_steps}."
            )
        return self

    @model_validator(mode="after")
    def _shards_hold_what_is_read(self) -> "Experiment":
        if self.data.store not in ("both", self.settings.reads):
            raise ConfigError(
                f"data.store is {self.data.store!r}; expected 'both' or {self.settings.reads!r}, which {self.method} "
                "learns from."
            )
        return self

    @model_validator(mode="after")
    def _plans_fit_the_model(self) -> "Experiment":
        if self.method != "trajectory_transformer":
            return self
        window, context = self.trajectory_transformer.window_transitions, self.planning.context_transitions
        if context + 1 > window:
            raise ConfigError(
                f"planning.context_transitions is {context}; expected less than "
                f"trajectory_transformer.window_transitions, {window}, which must hold the current one too."
            )
        if self.planning.discount != self.data.discount:
            raise ConfigError(
                f"planning.discount is {self.planning.discount}; expected data.discount, {self.data.discount}: a "
                "plan's rewards are added to a value that the model learnt with that discount. Set both, and prepare "
                "and train under another --name."
            )
        return self


Stage = Literal["collect", "prepare", "train"]

_SECTIONS: dict[Stage, tuple[str, ...]] = {
    "collect": ("environment", "collect"),
    "prepare": ("environment", "collect", "data"),
    "train": ("method", "training"),
}
"""Which parts of the settings decide what a stage makes, beside the section of the method that is trained."""


def stage_identity(experiment: Experiment, stage: Stage) -> dict[str, Any]:
    """Returns the settings that decide what a stage makes, for `claim_folder`.

    Given data is prepared whatever else was collected, or how.
    """
    names = ("data",) if stage == "prepare" and experiment.data.sources else _SECTIONS[stage]
    if stage == "train":
        names = (*names, experiment.method)
    values = {name: getattr(experiment, name) for name in names}
    return {"seed": experiment.seed} | {
        name: value.identity() if isinstance(value, Config) else value for name, value in values.items()
    }


def as_made(experiment: Experiment, run: RunFolder) -> dict[str, Any]:
    """Returns the experiment as nested plain values, with the settings that made what lies in the run's folders.

    Every job is given all settings, but only those of its own stage have an effect. The others must not take the place
    of those that another stage ran with: the record would name settings that nothing was made with.
    """
    values = experiment.model_dump(mode="json")
    folders: dict[Stage, Path] = {"collect": run.behaviour, "prepare": run.shards, "train": run.checkpoints}
    for stage, folder in folders.items():
        claimed = claimed_identity(folder) or {}
        _take_over(values, claimed, ("seed", *_SECTIONS[stage], claimed.get("method", "")))
    rows = [claimed_identity(folder) or {} for folder in sorted(run.evaluation.glob("*/"))]
    for row in rows[:1]:
        # The rows of one table have one environment, and the training's seed.
        _take_over(values, row, ("environment",))
    # The only row that all planning settings act on.
    planner = claimed_identity(run.episodes("trajectory_transformer")) or {}
    _take_over(values, {"planning": planner.get("acting", {})}, ("planning",))
    for row in [row for row in rows if row.get("method") in experiment.method_names()][:1]:
        settings = type(getattr(experiment, row["method"])).model_validate(values[row["method"]])
        values[row["method"]] |= settings.acted(row["acting"])
    return values


def _take_over(values: dict[str, Any], made: dict[str, Any], names: tuple[str, ...]) -> None:
    """Replaces parts of the experiment by what something was made with.

    A setting that this version does not know any more is left out, so that the record can be read.
    """
    for name in (name for name in names if name in made):
        if not isinstance(made[name], dict):
            values[name] = made[name]
        elif name in values:
            values[name] = {field: made[name].get(field, value) for field, value in values[name].items()}
