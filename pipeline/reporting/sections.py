"""What a run's report shows, section by section, and what to run where an input is not there yet.

A missing input gives a section that says so; a broken one raises the error of the package that reads it.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from pipeline.data.manifest import MANIFEST_NAME, Manifest, read_manifest
from pipeline.evaluation.results import EpisodeStore
from pipeline.records import EpisodeResult
from pipeline.reporting.methods import DATA, colours
from pipeline.reporting.page import Grid, Section
from pipeline.reporting.plots import decision_times, loss_by_kind, returns_by_method, returns_by_source, total_loss
from pipeline.reporting.provenance import commit, hardware, versions
from pipeline.reporting.table import ResultRow, result_cells, result_rows
from pipeline.run_folder import RunFolder
from pipeline.training.metrics import read_metrics


@dataclass(frozen=True)
class RunRecord:
    """What lies in a run's folder, read when it is asked for; None or empty where a stage has not run.

    Attributes:
        run: The folder.
    """

    run: RunFolder

    @property
    def command(self) -> str:
        """What makes the run's results again; the job's name stands open as `{job}`."""
        return f"python jobs/{{job}}.py --config {self._shown(self.run.config)}"

    def again(self, job: str) -> str:
        """Returns the command that runs one job of this run."""
        return self.command.format(job=job)

    @cached_property
    def config(self) -> dict[str, Any] | None:
        """The effective configuration."""
        return yaml.safe_load(self.run.config.read_text()) if self.run.config.exists() else None

    @cached_property
    def summary(self) -> dict[str, Any] | None:
        """The table for programs."""
        return json.loads(self.run.summary.read_text()) if self.run.summary.exists() else None

    @cached_property
    def rows(self) -> list[ResultRow]:
        """The result table, without rows before an evaluation."""
        return result_rows(self.summary) if self.summary else []

    @cached_property
    def manifest(self) -> Manifest | None:
        """Of the token shards."""
        return read_manifest(self.run.shards) if (self.run.shards / MANIFEST_NAME).exists() else None

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """What training reported."""
        return read_metrics(self.run.metrics)

    @cached_property
    def episodes(self) -> dict[str, list[EpisodeResult]]:
        """Evaluation episodes of the methods in the result table."""
        stores = {row.method: EpisodeStore(self.run.episodes(row.method)) for row in self.rows if row.method != DATA}
        return {method: results for method, store in stores.items() if (results := store.read())}

    @staticmethod
    def _shown(path: Path) -> str:
        """Returns `path` as it is typed in the working directory, where it lies below that."""
        return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def result_section(record: RunRecord) -> Section:
    """The result table and the command that makes it again."""
    command = record.again("run")
    if not record.rows:
        return Section("Result", missing=f"No evaluation yet: run {record.again('evaluate')}.")
    header, cells = result_cells(record.rows)
    palette = colours(row.method for row in record.rows)
    best = max(range(len(cells)), key=lambda i: record.rows[i].mean_return)
    grid = Grid(
        header,
        cells,
        "Return: undiscounted sum of an episode's rewards. Interval: 95 %, of the mean. Decision: median milliseconds of "
        "one call, which serves all episodes of an actor's batch.",
        strong=frozenset({(best, 1)}),
        colours=[palette[row.method] for row in record.rows],
    )
    return Section("Result", grids=[grid], code=command)


def data_section(record: RunRecord) -> Section:
    """Returns, lengths and endings of the data by source; its dimensions behind a heading."""
    manifest = record.manifest
    if manifest is None:
        return Section("Data", missing=f"No token shards yet: run {record.again('prepare')}.")
    returns = manifest.statistics.returns
    header = ("Source", "Episodes", "Steps", "Mean return", "Deviation", "Least", "Median", "Greatest", "Mean length")
    cells = [
        (s.source, f"{s.episodes:,}", f"{s.steps:,}", f"{s.mean:.4g}", f"{s.deviation:.3g}")
        + tuple(f"{s.quantiles[i]:.4g}" for i in (0, 3, 6))
        + (f"{s.mean_length:.1f}",)
        for s in returns
    ]
    totals = manifest.totals
    dropped = sum(source.dropped_episodes for source in returns)
    text = (
        f"{totals.episodes:,} episodes and {totals.steps:,} steps in all; {totals.validation_episodes:,} episodes are held "
        f"out for validation. {dropped} were dropped for NaN or infinite values. Discretizer: "
        f"{manifest.discretizer_kind}, {manifest.layout.num_bins} bins."
    )
    return Section(
        "Data",
        text=text,
        grids=[Grid(header, cells)],
        drawings=[returns_by_source(returns, record.rows)],
        folded=[("Dimensions", _dimensions(manifest))],
    )


def _dimensions(manifest: Manifest) -> Grid:
    header = ("Dimension", "Least", "Greatest", "Mean", "Deviation", "Distinct values", "Bins", "Clipped")
    cells = [
        (d.name, *(f"{x:.4g}" for x in (d.minimum, d.maximum, d.mean, d.deviation)), *map(str, (d.distinct, d.bins)))
        + (str(d.clipped),)
        for d in manifest.statistics.dimensions
    ]
    return Grid(header, cells, "Clipped: values outside the outer bin edges; they count to the outer bins.")


def training_section(record: RunRecord) -> Section:
    """Loss curves."""
    steps, epochs = ([line for line in record.metrics if line["kind"] == kind] for kind in ("step", "epoch"))
    if not steps and not epochs:
        return Section("Training", missing=f"No training yet: run {record.again('train')}.")
    last = record.metrics[-1]
    text = f"{last['step']:,} optimizer steps over {last['tokens'] / 1e6:,.1f} million tokens."
    return Section("Training", text=text, drawings=[total_loss(steps, epochs), loss_by_kind(steps, epochs)])


def evaluation_section(record: RunRecord) -> Section:
    """Every episode's return, and decision times."""
    if not record.episodes:
        return Section("Evaluation", missing=f"No evaluation episodes yet: run {record.again('evaluate')}.")
    methods = [row.method for row in record.rows if row.method in record.episodes]
    drawings = [returns_by_method(record.episodes, record.rows), decision_times(record.episodes, methods)]
    failed = [result for method in methods for result in record.episodes[method] if result.error]
    lost = sum(result.attempts > 1 for method in methods for result in record.episodes[method])
    text = f"{len(failed)} episodes failed in the environment; {lost} were started again after a lost actor."
    errors = "\n".join(f"{result.method} episode {result.episode}: {result.error}" for result in failed)
    return Section("Evaluation", text=text, drawings=drawings, folded=[("Failed episodes", errors)] if failed else [])


def configuration_section(record: RunRecord) -> Section:
    """The complete effective configuration, folded."""
    if record.config is None:
        return Section("Configuration", missing=f"{record.run.config} is not there: run any job with this --name.")
    return Section("Configuration", folded=[("The complete configuration", record.run.config.read_text())])


def provenance_section(record: RunRecord) -> Section:
    """Versions, hardware and commit."""
    machine = {**hardware(), "commit": commit(Path(__file__).parent)}
    made = record.manifest.versions if record.manifest else {}
    libraries = Grid(
        ("Library", "This report", "The shards"),
        [(name, number, made.get(name, "–")) for name, number in versions().items()],
    )
    hosts = sorted({result.host for results in record.episodes.values() for result in results})
    if hosts:
        machine["evaluated on"] = ", ".join(hosts)
    return Section(
        "Provenance",
        text="The machine and the code that wrote this report.",
        grids=[Grid(("", ""), list(machine.items())), libraries],
    )
