"""What a sweep over settings of acting tries, and what its table says; Ray Tune drives it (pipeline.distributed.sweep).

The episodes of a setting lie in a folder named by `setting_key`, so that every table can be made again from the
episodes alone.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.configuration import write_atomically, write_text_atomically
from pipeline.errors import StorageError
from pipeline.evaluation.config import RangeConfig, SweepConfig
from pipeline.evaluation.summary import summarize
from pipeline.methods.swept import Setting, Swept
from pipeline.records import EpisodeResult
from pipeline.seeding import stream
from pipeline.stored import read_bytes, sealed, unsealed

TABLE = "table.json"


@dataclass(frozen=True)
class SweepRow:
    """One setting that was tried.

    Attributes:
        key: Name of its folder.
        settings: Value of each swept setting, by dotted name.
        mean_return: Mean of the undiscounted episode returns.
        interval: Lower and upper end of the mean's 95 % interval, None where there is none.
        median_return, iqm_return: Median and interquartile mean of the returns.
        episodes: How many episodes these are over.
        failed: Episodes whose environment raised.
        decision_ms: Median milliseconds per call of the policy, which decides for a whole batch; measured while other
            settings were tried on the other CPUs.
        stopped_early: It has fewer episodes than the sweep asks for.
        feasible: decision_ms is within sweep.max_decision_ms.
        pareto: No other setting has a better objective in no more time.
        chosen: The feasible setting with the best objective, the fastest of these.
    """

    key: str
    settings: Setting
    mean_return: float
    interval: tuple[float, float] | None
    median_return: float
    iqm_return: float
    episodes: int
    failed: int
    decision_ms: float
    stopped_early: bool
    feasible: bool
    pareto: bool = False
    chosen: bool = False

    def objective(self, config: SweepConfig) -> float:
        """Returns what `sweep.objective` names."""
        return float(getattr(self, config.objective))


def setting_key(setting: Setting) -> str:
    """Returns the name of a setting's folder: 12 hex digits that depend on its names and values alone."""
    return hashlib.sha256(json.dumps(setting, sort_keys=True).encode()).hexdigest()[:12]


def space_of(config: SweepConfig) -> dict[str, list[Any] | RangeConfig]:
    """Returns the space of a sweep in which null was replaced."""
    assert config.space is not None, "the stage has put the method's space in its place"
    return config.space


def listed_settings(config: SweepConfig, root_seed: int) -> list[Setting]:
    """Returns the settings of a grid or random search, which are known before anything is tried.

    Random settings depend on root seed, space and their number alone, so that more samples later go on where fewer
    ended; one drawn twice is tried once.
    """
    if config.search == "grid":
        lists = [values for values in space_of(config).values() if isinstance(values, list)]
        return [dict(zip(space_of(config), values, strict=True)) for values in itertools.product(*lists)]
    drawn = [_draw(config, stream(root_seed, "sweep setting", i)) for i in range(config.samples)]
    return list({setting_key(setting): setting for setting in drawn}.values())


def _draw(config: SweepConfig, generator: np.random.Generator) -> Setting:
    return {path: _draw_value(values, generator) for path, values in space_of(config).items()}


def _draw_value(values: list[Any] | RangeConfig, generator: np.random.Generator) -> Any:
    if isinstance(values, list):
        return values[int(generator.integers(len(values)))]
    # A whole number has the half below and above it, so that both ends are as likely as the others.
    margin = 0.5 if values.integer else 0.0
    low, high = values.low - margin, values.high + margin
    if values.log:
        value = math.exp(generator.uniform(math.log(low), math.log(high)))
    else:
        value = float(generator.uniform(low, high))
    return min(max(round(value), int(values.low)), int(values.high)) if values.integer else value


def sweep_table(entries: Sequence[tuple[Setting, Sequence[EpisodeResult]]], config: SweepConfig) -> list[SweepRow]:
    """Returns one row for each setting, in the order given, with the Pareto front and the choice marked.

    A setting that was stopped early is chosen only where none has all its episodes; of equally good ones the fastest is
    chosen.

    Args:
        entries: Settings and their episodes, at least one each.
        config: Objective, constraint, and the episodes that a full row has.

    Raises:
        EvaluationError: Every episode of a setting failed.
    """
    rows = [_row(setting, results, config) for setting, results in entries]
    front = {row.key for row in pareto_front(rows, config)}
    feasible = [row for row in rows if row.feasible]
    full = [row for row in feasible if not row.stopped_early]
    chosen = max(full or feasible, key=lambda row: (row.objective(config), -row.decision_ms), default=None)
    return [replace(row, pareto=row.key in front, chosen=row is chosen) for row in rows]


def _row(setting: Setting, results: Sequence[EpisodeResult], config: SweepConfig) -> SweepRow:
    entry = summarize(f"setting {setting}", results, reference=None)
    return SweepRow(
        key=setting_key(setting),
        settings=setting,
        mean_return=entry["mean_return"],
        interval=tuple(entry["interval"]) if entry["interval"] else None,
        median_return=entry["median_return"],
        iqm_return=entry["iqm_return"],
        episodes=entry["episodes"],
        failed=entry["failed"],
        decision_ms=entry["decision_ms"],
        stopped_early=len(results) < config.episodes,
        feasible=config.max_decision_ms is None or entry["decision_ms"] <= config.max_decision_ms,
    )


def pareto_front(rows: Sequence[SweepRow], config: SweepConfig) -> list[SweepRow]:
    """Returns the rows that no other one beats in objective without more decision time, the fastest first."""
    front: list[SweepRow] = []
    for row in sorted(rows, key=lambda row: (row.decision_ms, -row.objective(config))):
        if not front or row.objective(config) > front[-1].objective(config):
            front.append(row)
    return front


def write_table(folder: Path, rows: Sequence[SweepRow]) -> None:
    """Writes the table as `table.csv`, `table.parquet` and, last, `table.json`, which programs read."""
    flat = [_flat(row) for row in rows]
    frame = pd.DataFrame(flat)
    write_text_atomically(folder / "table.csv", frame.to_csv(index=False))
    write_atomically(folder / "table.parquet", frame.to_parquet(index=False))
    write_text_atomically(folder / TABLE, sealed({"rows": [asdict(row) for row in rows]}))


def _flat(row: SweepRow) -> dict[str, Any]:
    values = asdict(row)
    settings, interval = values.pop("settings"), values.pop("interval") or (None, None)
    return {**settings, **values, "interval_low": interval[0], "interval_high": interval[1]}


def read_table(folder: Path) -> list[SweepRow]:
    """Returns the rows that `write_table` wrote.

    Raises:
        StorageError: There is no table, or it is not one of a sweep.
    """
    try:
        rows = unsealed(read_bytes(folder / TABLE))["rows"]
        return [SweepRow(**{**row, "interval": tuple(row["interval"]) if row["interval"] else None}) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"{folder / TABLE} is not readable ({error}); expected a sweep's table. Run jobs/sweep.py first."
        ) from error


def chosen_experiment(experiment: Mapping[str, Any], swept: Swept, row: SweepRow, checkpoint: str) -> dict[str, Any]:
    """Returns the experiment that evaluates a setting, as nested plain values for a YAML file.

    Its name is another one, so that its episodes never mix with those of the planning settings swept from; its
    seeds are not the sweep's, so that the choice is tested on episodes that it was not chosen by.

    Args:
        experiment: The effective experiment as nested plain values.
        swept: What was swept.
        row: The chosen setting.
        checkpoint: Absolute path of the checkpoint that the sweep used.
    """
    return {
        **experiment,
        "name": f"{experiment['name']}-chosen",
        swept.section: {**experiment[swept.section], **swept.stored(row.settings)},
        "evaluation": {**experiment["evaluation"], "checkpoint": checkpoint},
    }
