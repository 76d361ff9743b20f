"""The evaluate stage: a pool of Ray actors runs the episodes of every row that are not there yet."""

import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.acting import RANDOM
from pipeline.beside import Beside
from pipeline.configuration import claim_folder
from pipeline.data.manifest import Manifest
from pipeline.distributed.pool import PoolFacts, RolloutPool, wanted_actors
from pipeline.distributed.session import joins_cluster
from pipeline.errors import EvaluationError
from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.environment_check import require_environment
from pipeline.evaluation.plan_trace import NAME
from pipeline.evaluation.recipe import Recipe, is_trace_due, random_recipe, row_recipe, video_path
from pipeline.evaluation.results import EpisodeStore, processors
from pipeline.evaluation.rollout import episode_starts
from pipeline.evaluation.subject import checkpoint_folder, load_manifest, trained_settings
from pipeline.evaluation.summary import build_summary, choose_reference, ended_episodes, write_summary
from pipeline.evaluation.video import was_filmed
from pipeline.exclusive import exclusive
from pipeline.experiment import Experiment
from pipeline.methods.registry import METHODS
from pipeline.progress import Progress
from pipeline.provenance import other_processor
from pipeline.records import EpisodeResult
from pipeline.reporting.table import print_summary
from pipeline.run_folder import RunFolder


def evaluate(experiment: Experiment, run: RunFolder) -> None:
    """Runs the missing episodes of every row, then writes `summary.json` and prints the table.

    Rows that were evaluated before, and are not asked for now, stay in both as far as they can be compared.

    An episode's result depends on checkpoint, configuration and its seed alone; each is written when it ends, so the
    stage can be stopped at any time and called again. More episodes than before extend the result.

    Raises:
        RunFolderError: Episodes of another configuration or checkpoint are there, or another evaluation runs.
        EnvironmentSetupError: The environment does not fit the data.
        CheckpointError: There is no checkpoint, or it is of another method.
        ConfigError: The model cannot act as the settings say.
        EvaluationError: Episodes were lost on each of their attempts, or all episodes of a row failed. All others
            are run, and in the summary, first.
        ClusterError: No actor starts.
        StorageError: The storage of the run neither answers nor refuses.
    """
    config = experiment.evaluation
    # This thread waits and takes signals: whatever may meet storage that does not answer is done by others.
    storage = Beside()
    checkpoint, manifest, rows = storage.do(
        lambda: _subject(experiment, run), f"Reading the checkpoint that {run.root} is to be evaluated with"
    )
    reference = choose_reference(config.reference, experiment.environment.id, manifest)
    require_environment(experiment.environment, manifest)
    total, reading = config.episodes * len(rows), f"Reading the episodes in {run.evaluation}"
    with exclusive(run.evaluation, "evaluation"), Progress("evaluate", total, "episodes") as progress:
        storage.do(lambda: _claim(rows, checkpoint), f"Looking at the episodes in {run.evaluation}")
        failures = _run_missing(experiment, rows, progress, storage)
        missing = sum(map(len, storage.do(lambda: [row.store.missing(config.episodes) for row in rows], reading)))
        lost = f", {missing} of them missing," if missing else ""
        progress.finish(f"{config.episodes} episodes of each of {len(rows)} rows{lost} in {run.summary.parent}")
    comparable = _with_ended_episodes(storage.do(lambda: _results(rows, run, config.episodes), reading), failures)
    if comparable:
        summary = build_summary(comparable, manifest, experiment.environment.id, reference, checkpoint)
        storage.do(lambda: write_summary(run.summary, summary), f"Writing {run.summary}")
        print_summary(summary)
    for folder in (run.videos(row.name) for row in rows if row.recipe.videos):
        print(f"films     {folder}; jobs/report.py links them")
    if failures:
        told = "\n".join(f"{name}: {error}" for name, error in failures.items())
        raise EvaluationError(told) from next(iter(failures.values()))


def _advice(checkpoint: Path | None) -> str:
    model = f", with --evaluation.checkpoint {checkpoint} for the same model" if checkpoint else ""
    return f"Choose another --name{model}"


@dataclass(frozen=True)
class _Row:
    """One row of the table.

    Attributes:
        recipe: What its actors make it from.
        store: Where its episodes are.
        identity: What they depend on.
    """

    recipe: Recipe
    store: EpisodeStore
    identity: dict[str, Any]

    @property
    def name(self) -> str:
        """Of its line, and of the folder of its episodes."""
        return self.recipe.row

    def missing(self, config: EvaluationConfig) -> list[int]:
        """Returns the episodes to run: those without a result, and those to be filmed or traced yet."""
        films, folder = range(min(self.recipe.videos, config.episodes)), Path(self.recipe.video_folder or "")
        wanted = {i for i in films if not was_filmed(video_path(folder, i))}
        if is_trace_due(self.recipe):
            wanted.add(0)
        return sorted(wanted.union(self.store.missing(config.episodes)))


def _subject(experiment: Experiment, run: RunFolder) -> tuple[Path | None, Manifest, list[_Row]]:
    """Returns the checkpoint, None where no row has a model, the manifest of its data, and the rows."""
    has_model = any(kind != RANDOM for kind in experiment.row_kinds)
    checkpoint = checkpoint_folder(experiment.evaluation.checkpoint, run.checkpoints) if has_model else None
    manifest = load_manifest(run.shards_at(experiment.data.output), checkpoint)
    return (
        checkpoint,
        manifest,
        [_row(recipe, experiment, run) for recipe in _recipes(experiment, manifest, checkpoint)],
    )


def _claim(rows: list[_Row], checkpoint: Path | None) -> None:
    for row in rows:
        claim_folder(row.store.folder, row.identity, f"episodes of {row.name}", _advice(checkpoint))


def _recipes(experiment: Experiment, manifest: Manifest, checkpoint: Path | None) -> list[Recipe]:
    """Returns what acts in each row, in the order of the table.

    Raises:
        CheckpointError: The model is of another method.
        ConfigError: It cannot act as the settings say.
    """
    evaluation, environment = experiment.evaluation, experiment.environment
    recipes = [random_recipe(environment, evaluation, manifest)] if RANDOM in experiment.row_kinds else []
    if checkpoint is None:
        return recipes
    method, trained = METHODS[experiment.method], trained_settings(checkpoint, experiment.method)
    settings = trained.acting_as(experiment.settings)
    for kind in (kind for kind in experiment.row_kinds if kind != RANDOM):
        for row in method.rows(kind, settings, experiment.planning, manifest):
            method.require_acting(row.acting, trained)
            recipes.append(row_recipe(row, method.name, environment, evaluation, manifest, checkpoint))
    return recipes


def _row(recipe: Recipe, experiment: Experiment, run: RunFolder) -> _Row:
    evaluation = experiment.evaluation
    if recipe.checkpoint is not None:
        recipe = recipe.model_copy(update={"videos": evaluation.videos, "video_folder": str(run.videos(recipe.row))})
    if experiment.settings.plans and recipe.row == experiment.method:
        recipe = recipe.model_copy(update={"plan_trace": str(run.episodes(recipe.row) / NAME)})
    identity = {"seed": experiment.seed, "cpus": evaluation.cpus_per_actor, **recipe.identity()}
    return _Row(recipe, EpisodeStore(run.episodes(recipe.row)), identity)


def _results(rows: list[_Row], run: RunFolder, episodes: int) -> dict[str, list[EpisodeResult]]:
    """Returns the episodes of the rows, and of those that were evaluated before and stand beside them."""
    stores = {row.name: row.store for row in rows} | _stores_beside(rows, run, episodes)
    return {name: store.read(episodes) for name, store in stores.items()}


def _stores_beside(rows: list[_Row], run: RunFolder, episodes: int) -> dict[str, EpisodeStore]:
    """Returns where rows that were evaluated before, and can be compared with `rows`, have their episodes."""
    known, identities = {row.name for row in rows}, [row.identity for row in rows]
    others = {folder.name: EpisodeStore(folder) for folder in run.evaluation.glob("*/") if folder.name not in known}
    return {name: store for name, store in others.items() if store.stands_beside(identities, episodes)}


def _run_missing(
    experiment: Experiment, rows: list[_Row], progress: Progress, storage: Beside
) -> dict[str, EvaluationError]:
    """Runs the episodes that are not there, and returns why rows whose episodes were lost have not all of theirs."""
    config = experiment.evaluation
    missing = storage.do(lambda: [row.missing(config) for row in rows], "Looking which episodes are missing")
    failures: dict[str, EvaluationError] = {}
    if not any(missing):
        return failures
    useful = math.ceil(max(map(len, missing)) / config.batch_size)
    with RolloutPool(config, wanted_actors(config, useful, can_grow=joins_cluster())) as pool:
        done = sum(config.episodes - len(episodes) for episodes in missing)
        shown = _Shown(progress, done, total=config.episodes * len(rows), storage=storage)
        for row, episodes in zip(rows, missing, strict=True):
            shown.begin(row.name, storage.do(partial(row.store.read, config.episodes), f"Reading {row.store.folder}"))
            starts = episode_starts(experiment.seed, "evaluation episode", episodes)
            try:
                pool.run(row.recipe, starts, partial(shown.add, row.store), shown.show)
            except EvaluationError as error:  # raised again when the other rows have theirs
                failures[row.name] = error
    return failures


def _with_ended_episodes(
    results: dict[str, list[EpisodeResult]], failures: dict[str, EvaluationError]
) -> dict[str, list[EpisodeResult]]:
    """Returns the rows that a summary can be made of, and adds to `failures` why the others cannot be in it."""
    comparable: dict[str, list[EpisodeResult]] = {}
    for name, episodes in results.items():
        try:
            ended_episodes(name, episodes)
        except EvaluationError as error:
            failures.setdefault(name, error)
        else:
            comparable[name] = episodes
    return comparable


class _Shown:
    """What the progress line shows, over all rows."""

    def __init__(self, progress: Progress, done: int, total: int, storage: Beside) -> None:
        self._progress, self._done, self._total, self._storage = progress, done, total, storage
        self.begin("", [])

    def begin(self, row: str, kept: list[EpisodeResult]) -> None:
        """Goes on to another row, some of whose episodes may be there, and may be played again."""
        self._row, self._began, self._ended = row, time.monotonic(), 0
        self._kept = {result.episode: result for result in kept}
        self._returns = [result.total_reward for result in kept]
        self._processors = processors(kept)

    def add(self, store: EpisodeStore, results: list[EpisodeResult]) -> None:
        """Keeps episodes that ended: the file first, then the count."""
        self._storage.do(lambda: store.add(results), f"Writing episodes into {store.folder}")
        self._tell_of_another_processor(processors(results) - self._processors)
        self._done += len(results)
        self._ended += len(results)
        self._returns += [result.total_reward for result in results if result.episode not in self._kept]
        for result in results:
            self._tell_of_another_outcome(self._kept.get(result.episode, result), result)

    def _tell_of_another_outcome(self, before: EpisodeResult, now: EpisodeResult) -> None:
        if (before.total_reward, before.length) != (now.total_reward, now.length):
            self._progress.note(
                f"episode {now.episode} of {self._row} got {now.total_reward:.6g} when it was played again, and "
                f"{before.total_reward:.6g} before, which stays in the table; a film of it shows the later one."
            )

    def _tell_of_another_processor(self, new: set[str]) -> None:
        if new and self._processors:
            self._progress.note(other_processor(self._row, self._processors, new))
        self._processors |= new

    def show(self, facts: PoolFacts) -> None:
        """Updates the line; rows differ in speed, so the time left follows from the present one's alone."""
        if not self._ended:
            actors = f"{facts.actors} actor{'s'[: facts.actors != 1]}"
            episodes = f"the first episodes of {self._row}, {facts.times.steps:,} steps so far on {actors}"
            self._progress.wait(episodes if facts.actors else "the first actor to start")
            return
        self._progress.update(
            self._done,
            seconds_left=(time.monotonic() - self._began) / self._ended * (self._total - self._done),
            row=self._row,
            mean_return=float(np.mean(self._returns)) if self._returns else None,
            steps_per_second=facts.times.steps / (time.monotonic() - self._began),
            actors=facts.actors,
        )
