"""The trials of a sweep, driven by Ray Tune.

A trial is one actor that runs its setting's episodes in lock step and keeps each as it ends. Trials share nothing but
files, so after a kill the same settings are given to a new Tune, whose trials read what is there and run the rest.
Tune reuses the actors, with all that they imported, from trial to trial; its own snapshots (pickles) are thrown away.
"""

import faulthandler
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import torch
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler
from ray.tune.search.optuna import OptunaSearch

from pipeline.beside import Beside, at_the_end
from pipeline.configuration import write_text_atomically
from pipeline.distributed.pool import rollout_terms
from pipeline.distributed.shared_storage import require_shared
from pipeline.evaluation.config import EvaluationConfig, RangeConfig, SweepConfig
from pipeline.evaluation.recipe import Recipe, build_batch
from pipeline.evaluation.results import EpisodeStore
from pipeline.evaluation.rollout import episode_starts
from pipeline.evaluation.sweep import listed_settings, setting_key, space_of, sweep_table
from pipeline.methods.swept import Setting, Swept
from pipeline.records import EpisodeResult
from pipeline.seeding import derived_seed

SETTING = "_setting.json"
"""In each setting's folder; hidden from readers of its episodes by the underscore."""

INFEASIBLE = -1e12
"""Objective of a setting over sweep.max_decision_ms, or without an episode that ended; finite, because schedulers
interpolate between objectives."""

_TUNE_FOLDER = "_ray_tune"

_SWITCHES = {
    # Status tables are printed at verbose=0 too, unless the old output is asked for.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Otherwise each trial writes its reports as JSON, CSV and TensorBoard events; the episodes are our record.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Otherwise Ctrl-C makes fit() return as if the sweep were done.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Relative paths in environment.kwargs stay relative to where the job was started.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


@dataclass(frozen=True)
class TrialPlan:
    """What all trials of a sweep have in common.

    Attributes:
        recipe: The row; each setting changes how it acts.
        swept: How.
        config: Space, episodes, objective, constraint.
        folder: Absolute; gets one folder for each setting.
        seed: Root seed of the experiment.
        report_every: Episodes between two reports.
        evaluation: Resources of a trial, its attempts, and how long to wait for the first one.
    """

    recipe: Recipe
    swept: Swept
    config: SweepConfig
    folder: Path
    seed: int
    report_every: int
    evaluation: EvaluationConfig


class SettingTrial(tune.Trainable):  # type: ignore[misc]
    """One setting; each step runs its next episodes, or reads them where they are there already."""

    def setup(self, config: dict[str, Any], plan: TrialPlan) -> None:
        """Begins in a new process."""
        require_shared()
        torch.set_num_threads(plan.evaluation.cpus_per_actor)
        self._plan = plan
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begins another setting in the same process."""
        self._setting: Setting = new_config["setting"]
        self._episodes = 0
        folder = self._plan.folder / setting_key(self._setting)
        write_text_atomically(folder / SETTING, json.dumps(self._setting) + "\n")
        self._store = EpisodeStore(folder)
        return True

    def step(self) -> dict[str, Any]:
        """Completes the episodes up to the next report and reports on all so far.

        Episodes come in order of their index, so that settings are compared on the same ones at every rung.
        """
        plan = self._plan
        self._episodes = min(self._episodes + plan.report_every, plan.config.episodes)
        if missing := self._store.missing(self._episodes):
            acting = plan.swept.applied(self._setting).model_dump(mode="json")
            # First of all: making the environment and loading the model can hang too.
            self._keep([])
            try:
                batch = build_batch(plan.recipe.model_copy(update={"acting": acting}))
                batch.run(episode_starts(plan.seed, "sweep episode", missing), self._keep)
            finally:
                faulthandler.cancel_dump_traceback_later()
        return {
            "episodes": self._episodes,
            "objective": self._objective(self._store.read(self._episodes)),
            "done": self._episodes >= plan.config.episodes,
        }

    def _objective(self, results: list[EpisodeResult]) -> float:
        if all(result.error for result in results):
            return INFEASIBLE
        row = sweep_table([(self._setting, results)], self._plan.config)[0]
        return row.objective(self._plan.config) if row.feasible else INFEASIBLE

    def _keep(self, results: list[EpisodeResult]) -> None:
        """Keeps episodes that ended, and ends this process unless the batch calls again in time.

        A batch calls about once a second. What hangs in an environment's own code can be ended in no other way; Tune
        starts the trial again, as after any lost actor, and the worker's log says where it hung.
        """
        self._store.add(results)
        faulthandler.dump_traceback_later(self._plan.evaluation.call_timeout_s, exit=True)


def tried_settings(folder: Path) -> list[Setting]:
    """Returns the settings whose trials began, in an order that depends on the settings alone."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"*/{SETTING}"))]


def run_trials(plan: TrialPlan, max_concurrent: int, on_tick: Callable[[], None]) -> list[Exception]:
    """Runs the trials of a sweep until each has its episodes or was stopped early.

    Args:
        plan: What to try.
        max_concurrent: Trials at once; each has the CPUs and GPUs of the plan to itself.
        on_tick: Called about once a second meanwhile.

    Returns:
        What each failed trial raised at its last attempt.

    Raises:
        ClusterError: No trial found room in time.
    """
    os.environ.update(_SWITCHES)
    # Of failed trials the caller tells; of reports that nobody kept there is nothing to tell.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    space, options = _search(plan)
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(SettingTrial, plan=plan),
            tune.PlacementGroupFactory(
                [{"CPU": float(plan.evaluation.cpus_per_actor), "GPU": plan.evaluation.gpus_per_actor}]
            ),
        ),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="objective",
            mode="max",
            scheduler=_scheduler(plan),
            max_concurrent_trials=max_concurrent,
            reuse_actors=True,
            **options,
        ),
        run_config=tune.RunConfig(
            name=_TUNE_FOLDER,
            storage_path=str(plan.folder),
            failure_config=tune.FailureConfig(max_failures=plan.evaluation.max_attempts - 1),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[_Ticker(on_tick, plan.evaluation)],
            verbose=0,
        ),
    )
    try:
        errors = tuner.fit().errors
    finally:
        folder = plan.folder / _TUNE_FOLDER
        at_the_end(lambda: shutil.rmtree(folder, ignore_errors=True), f"Removing {folder}")
    return [getattr(error, "cause", error) for error in errors]


def _scheduler(plan: TrialPlan) -> AsyncHyperBandScheduler | None:
    """Returns asynchronous successive halving over episodes, None (all run to their end) without early stopping."""
    if not plan.config.early_stopping:
        return None
    return AsyncHyperBandScheduler(
        time_attr="episodes",
        max_t=plan.config.episodes,
        grace_period=min(plan.report_every, plan.config.episodes),
        reduction_factor=plan.config.reduction_factor,
    )


def _search(plan: TrialPlan) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns Tune's parameter space and the settings of its TuneConfig that say how it is searched."""
    if plan.config.search != "optuna":
        return {"setting": tune.grid_search(listed_settings(plan.config, plan.seed))}, {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # What an earlier run tried comes first: its trials read their episodes and tell Optuna what they gave.
    known = Beside().do(lambda: tried_settings(plan.folder), f"Reading the settings in {plan.folder}")
    tried = [{f"setting/{path}": value for path, value in setting.items()} for setting in known]
    # Points that are given draw no random numbers: by the same seed, what comes after them would be drawn once more.
    searcher = OptunaSearch(points_to_evaluate=tried, seed=derived_seed(plan.seed, "optuna", len(tried)))
    space = {"setting": {path: _domain(values) for path, values in space_of(plan.config).items()}}
    return space, {"search_alg": searcher, "num_samples": plan.config.samples}


def _domain(values: Sequence[Any] | RangeConfig) -> Any:
    """Returns Tune's word for a list of choices or a range."""
    if not isinstance(values, RangeConfig):
        return tune.choice(list(values))
    if values.integer:
        low, high = int(values.low), int(values.high) + 1
        return tune.lograndint(low, high) if values.log else tune.randint(low, high)
    return tune.loguniform(values.low, values.high) if values.log else tune.uniform(values.low, values.high)


class _Ticker(tune.Callback):  # type: ignore[misc]
    """Calls back about once a second while Tune runs, and ends a wait for room that Tune itself never ends."""

    def __init__(self, on_tick: Callable[[], None], evaluation: EvaluationConfig) -> None:
        self._on_tick, self._ticked = on_tick, 0.0
        self._evaluation, self._worked_at = evaluation, time.monotonic()

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:  # noqa: ARG002 (Tune passes them)
        now = time.monotonic()
        if any(trial.status != "PENDING" for trial in trials if not trial.is_finished()):
            self._worked_at = now
        if now - self._worked_at > self._evaluation.start_timeout_s:
            raise rollout_terms(self._evaluation).none_started()
        if now - self._ticked >= 1:
            self._on_tick()
            self._ticked = now

    def __reduce__(self) -> tuple[type[tune.Callback], tuple[()]]:
        # Tune pickles its callbacks into a snapshot that nobody reads; a terminal's progress line cannot be pickled.
        return (tune.Callback, ())
