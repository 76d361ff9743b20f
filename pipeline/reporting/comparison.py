"""The paper's table from several runs: data sets down, rows of their tables across.

Runs of one data set and method that differ in nothing but their seed are trainings of one setting; they are averaged,
with an interval that covers trainings and episodes. Runs of one method that differ in more get columns of their own,
named by the difference. The random policy has nothing of a method: of runs with one seed its episodes count once. So
does the behaviour data, which stands beside them.
How the table is written down is not decided here (`pipeline.reporting.markup`).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from pipeline.acting import RANDOM
from pipeline.collection.config import CollectConfig
from pipeline.configuration import Config, claimed_identity
from pipeline.data.config import DataConfig
from pipeline.data.manifest import Manifest
from pipeline.environments import EnvironmentConfig
from pipeline.errors import RunFolderError
from pipeline.evaluation.scores import ScoreReference
from pipeline.evaluation.summary import across_trainings, summarize
from pipeline.findings import findings
from pipeline.methods.checkpoint import settings_of
from pipeline.methods.registry import METHODS
from pipeline.planning.config import PlanningConfig
from pipeline.records import EpisodeResult
from pipeline.reporting.methods import DATA, label, ordered
from pipeline.reporting.record import RunRecord
from pipeline.run_folder import RunFolder
from pipeline.training.config import TrainingConfig


class ComparedSettings(Config):
    """What two runs of one environment may differ in beside the method's own settings."""

    environment: EnvironmentConfig
    collect: CollectConfig
    data: DataConfig
    training: TrainingConfig
    planning: PlanningConfig


@dataclass(frozen=True)
class ComparedRun:
    """One run, as far as the table needs it.

    Attributes:
        name: Of its folder.
        environment: Gymnasium id.
        data_set: Names of its sources.
        method: That was trained.
        settings: Every setting that decides its results, seed and method apart, by dotted name.
        seed: Root seed of its training.
        reference: What its normalised scores refer to, None for none.
        data_return: Mean return of the data that its model learnt from.
        episodes: Of each row, in the order of the summary; failed ones left out.
    """

    name: str
    environment: str
    data_set: str
    method: str
    settings: dict[str, Any]
    seed: int
    reference: ScoreReference | None
    data_return: float
    episodes: dict[str, list[EpisodeResult]]


@dataclass(frozen=True)
class Cell:
    """Mean of one row of a table on one data set.

    Attributes:
        mean: Normalised score, or return where the row has no reference.
        interval: Its 95 % interval, None for a single episode and for the behaviour data, all of which is counted.
        best: Within the interval of the row's highest mean.
    """

    mean: float
    interval: tuple[float, float] | None
    best: bool = False


@dataclass(frozen=True)
class ComparisonRow:
    """One data set.

    Attributes:
        environment, data_set: What it is.
        unit: `return`, or `score` with the name of its reference.
        trainings: Runs behind it.
        cells: By column.
    """

    environment: str
    data_set: str
    unit: str
    trainings: int
    cells: dict[str, Cell]


@dataclass(frozen=True)
class Comparison:
    """The table.

    Attributes:
        columns: The behaviour data and the rows of the runs' tables, and what distinguishes their settings.
        rows: Data sets in alphabetical order.
    """

    columns: tuple[str, ...]
    rows: tuple[ComparisonRow, ...]

    @property
    def means(self) -> dict[str, float]:
        """Mean score of each column; empty unless all rows are normalised scores and the column has all of them."""
        if len(self.rows) < 2 or any(row.unit == "return" for row in self.rows):
            return {}
        full = [column for column in self.columns if all(column in row.cells for row in self.rows)]
        return {column: float(np.mean([row.cells[column].mean for row in self.rows])) for column in full}


def read_run(run: RunFolder) -> ComparedRun:
    """Returns what the table needs of an evaluated run.

    Raises:
        RunFolderError: The run has no configuration, shards or evaluation yet.
        PipelineError: One of its files is broken.
    """
    record = RunRecord(run)
    config, manifest = record.config, record.manifest
    if config is None or manifest is None or record.summary is None:
        raise RunFolderError(
            f"{run.root} has no config.yaml, no shards or no summary.json; expected an evaluated run. "
            "Run jobs/run.py with its configuration first."
        )
    summary = record.summary
    reference = summary["reference"]
    return ComparedRun(
        name=run.root.name,
        environment=summary["environment"],
        data_set=" + ".join(source.name for source in manifest.sources),
        method=str(config.get("method")),
        settings=_settings(run, config, manifest),
        seed=config["seed"],
        reference=reference and ScoreReference(reference["name"], reference["random"], reference["expert"]),
        data_return=summary["data"]["mean_return"],
        episodes={method: [e for e in results if not e.error] for method, results in record.episodes.items()},
    )


def _settings(run: RunFolder, config: Mapping[str, Any], manifest: Manifest) -> dict[str, Any]:
    given = {name: config[name] for name in ComparedSettings.model_fields if name in config}
    try:
        settings = ComparedSettings.model_validate(given)
        method = METHODS[config["method"]]
        own = settings_of(method, dict(config)).identity()
    except KeyError as error:
        raise RunFolderError(
            f"{run.config} names no method of this version; expected a configuration that the jobs wrote. Run its "
            "evaluation again with this version."
        ) from error
    except ValidationError as error:
        raise RunFolderError(
            f"{run.config} is not a configuration of this version; expected one that the jobs wrote: "
            f"{findings(error, given)} Run its evaluation again with this version."
        ) from error
    identity = settings.identity()
    if not method.settings.plans:
        del identity["planning"]  # which only beam search reads
    own |= {"acting": _acting(run)}
    return _flat({**identity, method.name: own, **_data_settings(settings, manifest)})


def _acting(run: RunFolder) -> dict[str, Any]:
    """Returns how rows that are asked for a return act, that return apart, which is in their names."""
    claims = [claimed_identity(folder) or {} for folder in sorted(run.evaluation.glob("*/"))]
    asked = [claim["acting"] for claim in claims if "target_return" in claim.get("acting", {})]
    return {name: value for name, value in asked[0].items() if name != "target_return"} if asked else {}


def _data_settings(settings: ComparedSettings, manifest: Manifest) -> dict[str, Any]:
    """Returns what the data is and how it is prepared, not where it lies.

    Given data is known by its content. Collected data is another one for each seed, so it is known by its recipe.
    """
    data = settings.data
    if not data.sources:
        return {"data": data.preparation()}
    taken = [source.model_dump(include={"share", "max_steps"}) for source in data.sources]
    content = " + ".join(source.fingerprint[:8] for source in manifest.sources)
    return {"data": {**data.preparation(), "sources": taken, "content": content}, "collect": {}}


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in nested.items():
        listed = isinstance(value, list) and all(isinstance(item, Mapping) for item in value)
        below = {str(i): item for i, item in enumerate(value)} if listed else value
        result.update(_flat(below, f"{prefix}{key}.") if isinstance(below, Mapping) else {f"{prefix}{key}": value})
    return result


def compare(runs: Sequence[ComparedRun]) -> Comparison:
    """Returns the table of at least one run.

    Raises:
        RunFolderError: Two runs are the same training.
    """
    _require_different_trainings(runs)
    groups: dict[tuple[str, str], list[ComparedRun]] = defaultdict(list)
    for run in runs:
        groups[run.environment, run.data_set].append(run)
    rows = tuple(_row(groups[key]) for key in sorted(groups))
    columns = {column for row in rows for column in row.cells}
    names = [label(name) for name in ordered({DATA, *(name for run in runs for name in run.episodes)})]
    by_name = sorted(columns, key=lambda column: (names.index(column.partition(" (")[0]), column))
    return Comparison(tuple(by_name), rows)


def _require_different_trainings(runs: Sequence[ComparedRun]) -> None:
    first: dict[str, ComparedRun] = {}
    for run in runs:
        training = repr((run.environment, run.data_set, run.method, sorted(run.settings.items()), run.seed))
        other = first.setdefault(training, run)
        if other is not run:
            raise RunFolderError(
                f"{other.name} and {run.name} have the same settings and the same seed, {run.seed}; expected runs that "
                "differ: one training counted twice would make the interval too narrow. Leave one out, or train it "
                "with another --seed."
            )


def _row(runs: list[ComparedRun]) -> ComparisonRow:
    references = {run.reference for run in runs}
    reference = references.pop() if len(references) == 1 else None
    groups: dict[str, dict[int, list[EpisodeResult]]] = defaultdict(dict)
    for number, run in enumerate(runs):
        for name, episodes in run.episodes.items():
            group, training = groups[_column(name, run, runs)], run.seed if name == RANDOM else number
            group[training] = max(group.get(training, []), episodes, key=len)
    cells = {column: _cell(column, list(group.values()), reference) for column, group in groups.items()}
    cells = _with_best(_data_cells(runs, reference) | cells)
    unit = f"score ({reference.name})" if reference else "return"
    return ComparisonRow(runs[0].environment, runs[0].data_set, unit, len(runs), cells)


def _data_cells(runs: list[ComparedRun], reference: ScoreReference | None) -> dict[str, Cell]:
    """Returns the cells of the behaviour data; what was collected with one seed counts once, for all its methods."""
    groups: dict[str, dict[int, float]] = defaultdict(dict)
    for run in runs:
        # Given data is what it is wherever its model plays.
        decisive = _OF_THE_RETURNS if "data.content" in run.settings else (*_OF_THE_RETURNS, "environment.")
        groups[_named(DATA, run, _differing(runs, decisive))][run.seed] = run.data_return
    means = {column: float(np.mean(list(returns.values()))) for column, returns in groups.items()}
    return {column: Cell(reference.normalized(mean) if reference else mean, None) for column, mean in means.items()}


_OF_THE_RETURNS = ("collect.", "data.content", "data.sources.", "data.on_invalid")
"""Settings that decide the returns of the data; how it is cut into tokens and shards does not."""


def _column(name: str, run: ComparedRun, runs: list[ComparedRun]) -> str:
    """Returns the row's name, with the settings in which this run differs from others of its data set and method.

    Of the random policy that is the environment, in the runs of all methods: it depends on nothing else.
    """
    if name == RANDOM:
        differing = _differing(runs, ("environment.",))
    else:
        same = [other for other in runs if other.method == run.method]
        # What the data and the environment are must be the same for all methods of one row, or be said.
        differing = sorted({*_differing(runs, _OF_ALL_METHODS), *_differing(same, ("",))})
    return _named(name, run, differing)


def _named(name: str, run: ComparedRun, differing: Sequence[str]) -> str:
    words = ", ".join(f"{setting} {run.settings.get(setting)}" for setting in differing)
    return f"{label(name)} ({words})" if words else label(name)


_OF_ALL_METHODS = ("environment.", "collect.", "data.")


def _differing(runs: Sequence[ComparedRun], sections: tuple[str, ...]) -> list[str]:
    """Returns the settings of some sections that are not the same in all runs."""
    named = sorted({setting for run in runs for setting in run.settings if setting.startswith(sections)})
    return [setting for setting in named if len({repr(run.settings.get(setting)) for run in runs}) > 1]


def _cell(column: str, groups: list[list[EpisodeResult]], reference: ScoreReference | None) -> Cell:
    """Returns the cell of one or more trainings; of one alone it says what the run's own table says."""
    one = len(groups) == 1
    entry = summarize(column, groups[0], reference) if one else across_trainings(groups, reference)
    kind = ("normalized_score", "normalized_interval") if reference else ("mean_return", "interval")
    mean, interval = (entry[key] for key in kind)
    return Cell(mean, interval and (interval[0], interval[1]))


def _with_best(cells: dict[str, Cell]) -> dict[str, Cell]:
    top = max(cells.values(), key=lambda cell: cell.mean)
    threshold = top.interval[0] if top.interval else top.mean
    return {column: Cell(cell.mean, cell.interval, cell.mean >= threshold) for column, cell in cells.items()}
