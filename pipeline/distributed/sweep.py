"""The sweep stage: tries settings of acting on the same episodes and chooses one."""

from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.beside import Beside, Repeated
from pipeline.configuration import claim_folder, write_text_atomically
from pipeline.data.manifest import Manifest
from pipeline.distributed.pool import wanted_actors
from pipeline.distributed.room import actors_to_start
from pipeline.distributed.session import joins_cluster
from pipeline.distributed.trials import TrialPlan, run_trials, tried_settings
from pipeline.errors import ConfigError, EvaluationError
from pipeline.evaluation.config import RangeConfig, SweepConfig
from pipeline.evaluation.environment_check import require_environment
from pipeline.evaluation.recipe import Recipe, row_recipe
from pipeline.evaluation.results import EpisodeStore, processors
from pipeline.evaluation.subject import checkpoint_folder, load_manifest, trained_settings
from pipeline.evaluation.sweep import (
    SweepRow,
    chosen_experiment,
    listed_settings,
    setting_key,
    space_of,
    sweep_table,
    write_table,
)
from pipeline.exclusive import exclusive
from pipeline.experiment import Experiment
from pipeline.methods.method import Method, Row
from pipeline.methods.registry import METHODS
from pipeline.methods.settings import MethodSettings
from pipeline.methods.swept import Setting, Swept
from pipeline.progress import Progress
from pipeline.provenance import other_processor
from pipeline.records import EpisodeResult
from pipeline.reporting.table import interval_text
from pipeline.run_folder import RunFolder
from pipeline.stored import yaml_text

DONE = "done.yaml"
"""Written last: the sweep's configuration, so that the same sweep again has nothing to do."""

CHOSEN = "chosen.yaml"
"""What `jobs/evaluate.py --config` takes."""


def sweep(experiment: Experiment, run: RunFolder) -> None:
    """Tries the settings of `sweep.space`, writes their table, and the chosen one as a configuration.

    `runs/<name>/sweep/` gets one folder of episodes for each setting, `table.csv`, `table.parquet`, `table.json` and
    `chosen.yaml`. Its episodes have other seeds than those of jobs/evaluate.py, so that evaluating the chosen setting
    is a fair test of it. Called again, it runs only the episodes that are missing.

    Raises:
        RunFolderError: Episodes of another configuration or checkpoint are there, or another sweep runs.
        ConfigError: The space has what cannot be swept.
        CheckpointError: There is no checkpoint, or it is of another method.
        EnvironmentSetupError: The environment does not fit the data.
        EvaluationError: A setting could not be run; the others' rows are written first.
    """
    # This thread waits and takes signals: whatever may meet storage that does not answer is done by others.
    storage, method = Beside(), METHODS[experiment.method]
    checkpoint, manifest, trained = storage.do(
        lambda: _subject(experiment, run), f"Reading the checkpoint that {run.root} is to be swept with"
    )
    swept = method.swept(trained.acting_as(experiment.settings), experiment.planning, manifest)
    experiment = _with_space(experiment, swept)
    _require_acting(experiment.sweep, swept, method, trained)
    require_environment(experiment.environment, manifest)
    row = Row(f"sweep of {experiment.method}", swept.config)
    recipe = row_recipe(row, experiment.method, experiment.environment, experiment.evaluation, manifest, checkpoint)
    with exclusive(run.sweep, "sweep"), Progress("sweep", _expected_episodes(experiment), "episodes") as progress:
        before, done = storage.do(lambda: _begin(experiment, run, recipe), f"Looking at the episodes in {run.sweep}")
        errors: list[Exception] = [] if done else _run(experiment, run, recipe, swept, progress)
        episodes = storage.do(lambda: _episodes(experiment, run), f"Reading the episodes in {run.sweep}")
        if before and (new := _processors(episodes) - before):
            progress.note(other_processor("what was swept so far", before, new))
        rows = storage.do(
            lambda: _write_results(experiment, run, swept, str(checkpoint), episodes),
            f"Writing the table in {run.sweep}",
        )
        progress.finish(f"{len(rows)} settings in {run.sweep}")
    print(_printed(rows, experiment.sweep))
    if errors:
        raise EvaluationError(
            f"{len(errors)} settings failed and {len(rows)} have episodes; expected none to fail. The first error: "
            f"{errors[0]} Put it right and run the same command again: no episode is repeated."
        ) from errors[0]
    _require_ended(run, episodes)
    finished = run.sweep / DONE
    storage.do(lambda: write_text_atomically(finished, _dumped(experiment.sweep)), f"Writing {finished}")


def _subject(experiment: Experiment, run: RunFolder) -> tuple[Path, Manifest, MethodSettings]:
    """Returns the checkpoint, the manifest of its data, and the settings that it was trained with."""
    checkpoint = checkpoint_folder(experiment.evaluation.checkpoint, run.checkpoints)
    manifest = load_manifest(run.shards_at(experiment.data.output), checkpoint)
    return checkpoint, manifest, trained_settings(checkpoint, experiment.method)


def _begin(experiment: Experiment, run: RunFolder, recipe: Recipe) -> tuple[set[str], bool]:
    """Claims the folder; returns what computed the episodes that are there, and whether nothing is left to do."""
    claim_folder(run.sweep, _identity(experiment, recipe), "a sweep")
    return _processors(_episodes(experiment, run)), _is_done(experiment.sweep, run)


def _require_ended(run: RunFolder, episodes: list[tuple[Setting, list[EpisodeResult]]]) -> None:
    """Checks that each setting has an episode that ended; those that failed are kept, so it must be told how to repeat.

    Raises:
        EvaluationError: One has none.
    """
    errors = {setting_key(setting): results[0].error for setting, results in episodes if not _ended(results)}
    if errors:
        folders = " ".join(str(run.sweep / key) for key in errors)
        raise EvaluationError(
            f"the environment raised in every episode of {len(errors)} of {len(episodes)} settings; expected an "
            f"episode of each to end. The first error: {next(iter(errors.values()))}. Put the environment right, "
            f"remove {folders}, and run the same command again."
        )


def _with_space(experiment: Experiment, swept: Swept) -> Experiment:
    """Returns the experiment with the method's own space where none is given, and checks it.

    Raises:
        ConfigError: The space has a key that cannot be swept, or a value that it cannot have.
    """
    config = experiment.sweep
    if config.space is None:
        if not swept.space:
            raise ConfigError(
                f"sweep.space is null, and {swept.section} acts in one way only; expected another method."
            )
        config = config.model_copy(update={"space": dict(swept.space)})
    ranges = {path: values for path, values in space_of(config).items() if isinstance(values, RangeConfig)}
    lists = {path: values for path, values in space_of(config).items() if not isinstance(values, RangeConfig)}
    swept.check(lists, {path: values.ends for path, values in ranges.items()})
    return experiment.model_copy(update={"sweep": config})


def _require_acting(config: SweepConfig, swept: Swept, method: Method[Any], trained: MethodSettings) -> None:
    """Checks that the model can act as each value says, before anything is tried.

    Raises:
        ConfigError: It cannot.
    """
    for path, values in space_of(config).items():
        for value in values.ends if isinstance(values, RangeConfig) else values:
            try:
                acting = swept.applied({path: value})
            except ConfigError:
                continue  # it contradicts another setting: its trial says so, and the others are run
            method.require_acting(acting, trained)


def _identity(experiment: Experiment, recipe: Recipe) -> dict[str, Any]:
    """Returns what all settings' episodes depend on; a swept setting's own value in the configuration is not of it."""
    identity = {"seed": experiment.seed, "cpus": experiment.evaluation.cpus_per_actor, **recipe.identity()}
    swept = {path.partition(".")[2] for path in space_of(experiment.sweep)}
    identity["acting"] = {name: value for name, value in identity["acting"].items() if name not in swept}
    return identity


def _expected_episodes(experiment: Experiment) -> int:
    config = experiment.sweep
    count = config.samples if config.search == "optuna" else len(listed_settings(config, experiment.seed))
    return count * config.episodes


def _dumped(config: SweepConfig) -> str:
    return yaml_text(config.model_dump(mode="json"))


def _is_done(config: SweepConfig, run: RunFolder) -> bool:
    path = run.sweep / DONE
    return path.exists() and path.read_text() == _dumped(config)


def _run(experiment: Experiment, run: RunFolder, recipe: Recipe, swept: Swept, progress: Progress) -> list[Exception]:
    config, evaluation = experiment.sweep, experiment.evaluation
    plan = TrialPlan(
        recipe=recipe,
        swept=swept,
        config=config,
        folder=run.sweep,
        seed=experiment.seed,
        report_every=(config.report_every or evaluation.batch_size) if config.early_stopping else config.episodes,
        evaluation=evaluation,
    )

    def count() -> tuple[int, int] | None:
        return len(tried_settings(run.sweep)), len(list(run.sweep.glob("*/episode-*.parquet")))

    look = Repeated(count, f"Counting the episodes in {run.sweep}")

    def show() -> None:
        counted = look(None)
        if counted is None:
            progress.wait(f"{run.sweep} to be readable (its storage does not answer)")
        else:
            progress.update(counted[1], settings=counted[0])

    return run_trials(plan, wanted_actors(evaluation, _useful_trials(experiment), joins_cluster()), show)


def _useful_trials(experiment: Experiment) -> int:
    """Returns how many trials at once are worth asking for."""
    config, evaluation = experiment.sweep, experiment.evaluation
    if config.search != "optuna":
        return len(listed_settings(config, experiment.seed))
    # Optuna learns from trials that ended: asked for all of them at once, it would draw at random. So as many as find
    # room now, and one where there is none yet.
    resources = evaluation.cpus_per_actor, evaluation.gpus_per_actor
    return max(1, actors_to_start(None, config.samples, False, *resources))


def _episodes(experiment: Experiment, run: RunFolder) -> list[tuple[Setting, list[EpisodeResult]]]:
    """Returns the tried settings that have episodes, each with these."""
    stores = [(setting, EpisodeStore(run.sweep / setting_key(setting))) for setting in tried_settings(run.sweep)]
    entries = [(setting, store.read(experiment.sweep.episodes)) for setting, store in stores]
    return [(setting, results) for setting, results in entries if results]


def _processors(episodes: list[tuple[Setting, list[EpisodeResult]]]) -> set[str]:
    return processors(result for _, results in episodes for result in results)


def _ended(results: list[EpisodeResult]) -> bool:
    return any(not result.error for result in results)


def _write_results(
    experiment: Experiment,
    run: RunFolder,
    swept: Swept,
    checkpoint: str,
    episodes: list[tuple[Setting, list[EpisodeResult]]],
) -> list[SweepRow]:
    """Writes table and choice from the episodes that are there, and returns the rows."""
    rows = sweep_table([entry for entry in episodes if _ended(entry[1])], experiment.sweep)
    write_table(run.sweep, rows)
    chosen = next((row for row in rows if row.chosen), None)
    if chosen is None:
        (run.sweep / CHOSEN).unlink(missing_ok=True)
    else:
        values = chosen_experiment(experiment.model_dump(mode="json"), swept, chosen, checkpoint)
        write_text_atomically(run.sweep / CHOSEN, yaml_text(values))
    return rows


def _printed(rows: list[SweepRow], config: SweepConfig) -> str:
    """Returns the table for a terminal, the best setting first, those that were stopped early last."""
    ordered = sorted(rows, key=lambda row: (row.stopped_early, -row.objective(config)))
    table = pd.DataFrame(
        {
            **row.settings,
            config.objective.replace("_", " "): round(row.objective(config), 2),
            "95 % interval": interval_text(row.interval, 2),
            "episodes": row.episodes,
            "decision ms": round(row.decision_ms, 1),
            "": "chosen"
            if row.chosen
            else "stopped early"
            if row.stopped_early
            else ""
            if row.feasible
            else "too slow",
        }
        for row in ordered
    )
    return str(table.to_string(index=False))
