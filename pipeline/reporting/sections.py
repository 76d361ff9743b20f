"""What a run's report shows, section by section, and what to run where an input is not there yet.

A missing input gives a section that says so; a broken one raises the error of the package that reads it.
"""

import math
from collections import Counter

import numpy as np

from pipeline.data.manifest import Manifest
from pipeline.evaluation.sweep import TABLE, SweepRow, read_table
from pipeline.methods.registry import METHODS
from pipeline.provenance import commit, hardware, versions
from pipeline.reporting.methods import colours, label
from pipeline.reporting.page import Grid, Section
from pipeline.reporting.plots import (
    decision_times,
    measured_parts,
    measures_by_name,
    predicted_returns,
    returns_by_method,
    returns_by_source,
    total_loss,
)
from pipeline.reporting.plots_sweep import heat_map_settings, pareto_plot, return_heat_map, time_heat_map
from pipeline.reporting.plots_targets import asked_and_achieved
from pipeline.reporting.record import RunRecord
from pipeline.reporting.table import NOTHING, decimals, interval_text, result_cells, score_note


def result_section(record: RunRecord) -> Section:
    """The result table and the command that makes it again."""
    command = record.command("run")
    if not record.rows:
        return Section("Result", missing="No evaluation yet; this makes it:", code=record.command("evaluate"))
    header, cells = result_cells(record.rows)
    assert record.summary is not None, "its rows are there"
    palette = colours(row.method for row in record.rows)
    best = max(range(len(cells)), key=lambda i: record.rows[i].mean_return)
    grid = Grid(
        header,
        cells,
        "Return: undiscounted sum of an episode's rewards. Interval: 95 %, of the mean. Decision: median milliseconds "
        f"of one call, which serves all episodes of an actor's batch. {score_note(record.summary)}",
        strong=frozenset({(best, 1)}),
        colours=[palette[row.method] for row in record.rows],
    )
    return Section("Result", grids=[grid], code=command)


def data_section(record: RunRecord) -> Section:
    """Returns, lengths and endings of the data by source; its dimensions behind a heading."""
    manifest = record.manifest
    if manifest is None and record.is_out_of_reach:
        missing = f"The shards lie at {record.shards}, which a report reads only where its command names that place:"
        return Section("Data", missing=missing, code=f"{record.command('report')} --data.output {record.shards}")
    if manifest is None:
        return Section("Data", missing="No shards yet; this makes it:", code=record.command("prepare"))
    returns = manifest.statistics.returns
    header = ("Source", "Episodes", "Steps", "Mean return", "Deviation", "Min", "Median", "Max", "Mean length")
    cells = [
        [s.source, f"{s.episodes:,}", f"{s.steps:,}"]
        + [f"{number:.4g}" for number in (s.mean, s.deviation, s.quantiles[0], s.quantiles[3], s.quantiles[6])]
        + [f"{s.mean_length:.1f}"]
        for s in returns
    ]
    totals = manifest.totals
    dropped = sum(source.dropped_episodes for source in returns)
    divided = sum(source.divided_recordings for source in returns)
    text = (
        f"{totals.episodes:,} episodes and {totals.steps:,} steps in all; {totals.validation_episodes:,} episodes are "
        f"held out for validation; left out as invalid: {dropped}; recorded episodes divided at ends in their middle: "
        f"{divided}. Discretizer: {manifest.discretizer_kind}, {manifest.layout.num_bins} bins."
    )
    return Section(
        "Data",
        text=text,
        grids=[Grid(header, cells)],
        drawings=[returns_by_source(returns, record.rows)],
        folded=[("Dimensions", _dimensions(manifest))],
    )


def _dimensions(manifest: Manifest) -> Grid:
    header = ("Dimension", "Min", "Max", "Mean", "Deviation", "Distinct values", "Bins", "Clipped")
    cells = [
        [d.name]
        + [f"{number:.4g}" for number in (d.minimum, d.maximum, d.mean, d.deviation)]
        + [f"{count:,}" for count in (d.distinct, d.bins, d.clipped)]
        for d in manifest.statistics.dimensions
    ]
    return Grid(header, cells, "Clipped: values outside the outer bin edges; they count to the outer bins.")


def training_section(record: RunRecord) -> Section:
    """Loss curves."""
    lines = [line for line in record.metrics if "tokens" in line]
    steps, epochs = ([line for line in lines if line["kind"] == kind] for kind in ("step", "epoch"))
    if not steps and not epochs and record.checkpoint is not None:
        return Section("Training", text=f"Not in this run: the model is {record.checkpoint.folder}.")
    if not steps and not epochs:
        return Section("Training", missing="No training yet; this makes it:", code=record.command("train"))
    last = lines[-1]
    text = f"{last['step']:,} optimizer steps over {last['tokens'] / 1e6:,.1f} million tokens."
    if record.checkpoint:
        text += f" The checkpoint of step {record.checkpoint.info.step:,} is the one that is evaluated."
    unit = METHODS[record.method].loss if record.method in METHODS else "loss"
    drawings = [total_loss(steps, epochs, unit)]
    units = {"loss": unit.removeprefix("weighted ")}
    selection = record.checkpoint.info.selection if record.checkpoint else None
    if selection is not None:
        text += f" Checkpoints are selected by {selection.measure} on held-out episodes."
        units.setdefault(selection.measure.partition("_")[0], selection.measure.partition("_")[0])
    for number in record.damaged_metrics:
        text += f" Line {number} of {record.run.metrics} is damaged and left out."
    drawings += [measures_by_name(steps, epochs, *of) for of in units.items() if measured_parts(lines, of[0])]
    return Section("Training", text=text, drawings=drawings)


def evaluation_section(record: RunRecord) -> Section:
    """Every episode's return, and decision times."""
    if not record.episodes:
        return Section(
            "Evaluation", missing="No evaluation episodes yet; this makes it:", code=record.command("evaluate")
        )
    methods = [row.method for row in record.rows if row.method in record.episodes]
    drawings = [returns_by_method(record.episodes, record.rows), decision_times(record.episodes, methods)]
    predicting = [m for m in methods if any(math.isfinite(result.predicted_return) for result in record.episodes[m])]
    drawings += [predicted_returns(record.episodes, predicting)] if predicting else []
    failed = [result for method in methods for result in record.episodes[method] if result.error]
    lost = sum(result.attempts > 1 for method in methods for result in record.episodes[method])
    text = f"Episodes that failed in the environment: {len(failed)}; started again after a lost actor: {lost}."
    errors = "\n".join(f"{result.method} episode {result.episode}: {result.error}" for result in failed)
    return Section("Evaluation", text=text, drawings=drawings, folded=[("Failed episodes", errors)] if failed else [])


def target_section(record: RunRecord) -> Section | None:
    """What was achieved for each return asked for; None for a method that is asked for none."""
    asked = {record.targets[row.method]: row for row in record.rows if row.method in record.targets}
    if not asked or record.manifest is None:
        return None
    targets = sorted(asked)
    low, high = record.manifest.statistics.lowest_return, record.manifest.statistics.best_return
    range_of_data = ", ".join(f"{target:.4g}" for target in np.linspace(low, high, 6))
    return Section(
        "Returns asked for",
        text="What episodes get against what they are asked for. More points, over the range of the data:",
        drawings=[
            asked_and_achieved(targets, [asked[target] for target in targets], record.manifest.statistics.returns)
        ],
        code=f"{record.command('evaluate')} --decision_transformer.target_returns '[{range_of_data}]'",
    )


def sweep_section(record: RunRecord) -> Section:
    """Heat maps, the Pareto front, and every tried setting."""
    if not (record.run.sweep / TABLE).exists():
        return Section("Sweep", missing="No sweep yet; this makes it:", code=record.command("sweep"))
    rows = read_table(record.run.sweep)
    if not rows:
        missing = "No setting of the sweep has an episode that ended; this tells why:"
        return Section("Sweep", missing=missing, code=record.command("sweep"))
    pair = heat_map_settings(rows)
    drawings = [return_heat_map(rows, pair), time_heat_map(rows, pair)] if pair else []
    names = list(rows[0].settings)
    ordered_rows = sorted(rows, key=lambda row: -row.mean_return)
    places = decimals([row.mean_return for row in rows])
    cells = [
        [str(row.settings[name]) for name in names]
        + [f"{row.mean_return:.{places}f}", interval_text(row.interval, places), str(row.episodes)]
        + [f"{row.decision_ms:.1f}", _mark(row)]
        for row in ordered_rows
    ]
    grid = Grid([*names, "Mean return", "95 % interval", "Episodes", "Decision ms", ""], cells)
    text = f"{len(rows)} settings. Chosen is the best one that sweep.max_decision_ms allows."
    return Section("Sweep", text=text, drawings=[*drawings, pareto_plot(rows)], folded=[("All settings", grid)])


def _mark(row: SweepRow) -> str:
    marks = {
        "chosen": row.chosen,
        "Pareto": row.pareto,
        "stopped early": row.stopped_early,
        "too slow": not row.feasible,
    }
    return ", ".join(name for name, applies in marks.items() if applies)


def video_section(record: RunRecord) -> Section:
    """Filmed episodes, linked."""
    films = [(method, path) for method in record.episodes for path in sorted(record.run.videos(method).glob("*.mp4"))]
    if not films:
        command = f"{record.command('evaluate')} --evaluation.videos 2"
        return Section("Videos", missing="No videos; this films two episodes of each row with a model:", code=command)
    media = [(f"{label(method)}, {path.stem}", path.relative_to(record.run.root).as_posix()) for method, path in films]
    return Section("Videos", media=media)


def configuration_section(record: RunRecord) -> Section:
    """The complete effective configuration, folded."""
    if record.config is None:
        return Section("Configuration", missing=f"{record.run.config} is not there: run any job with this --name.")
    return Section("Configuration", folded=[("The complete configuration", record.run.config.read_text())])


def provenance_section(record: RunRecord) -> Section:
    """Versions, hardware and commit: of this report, and of the training that made the checkpoint."""
    machine = {**hardware(), "commit": commit()}
    trained = (record.checkpoint.info.trained_on if record.checkpoint else None) or {}
    rows = [(name, machine.get(name, NOTHING), trained.get(name, NOTHING)) for name in {**machine, **trained}]
    made = record.manifest.versions if record.manifest else {}
    libraries = Grid(
        ("Library", "This report", "The shards"),
        [(name, number, made.get(name, NOTHING)) for name, number in versions().items()],
    )
    hosts = sorted({result.host for results in record.episodes.values() for result in results})
    if hosts:
        rows.append(("evaluated on", ", ".join(hosts), NOTHING))
    kinds = Counter(result.computed_by for results in record.episodes.values() for result in results)
    for kind, count in sorted((kind, count) for kind, count in kinds.items() if kind):
        rows.append((f"{count} episodes computed by", kind, NOTHING))
    return Section(
        "Provenance",
        text="The machine and the code that wrote this report, and those that wrote the evaluated checkpoint.",
        grids=[Grid(("Machine", "This report", "The training"), rows, names=3, wraps=True), libraries],
    )
