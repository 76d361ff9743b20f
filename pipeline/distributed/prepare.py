"""Prepares shards on Ray Data: one pass finds the bin edges, a second one encodes and writes.

The ranges of episodes that tasks work on follow from the data alone, and what the tasks return is merged in the order
of the ranges, so the bytes are the same for any number of workers.
"""

import contextlib
import os
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from rich.console import Console

from pipeline import errors
from pipeline.beside import Beside
from pipeline.collection.dataset import dataset_folder, minari_root
from pipeline.configuration import IDENTITY, claim_folder, claimed_identity, read_identity, require_same
from pipeline.data.config import SourceConfig
from pipeline.data.fit import Fit, fit_summary
from pipeline.data.index import EpisodeIndex
from pipeline.data.limits import require_learnable
from pipeline.data.manifest import (
    MANIFEST_NAME,
    Manifest,
    ShardRecord,
    damage,
    read_manifest_alone,
    write_manifest,
)
from pipeline.data.manifest_builder import build_manifest
from pipeline.data.plan import Preparation, ShardPlan, with_splits
from pipeline.data.resolve import resolve_sources
from pipeline.data.shards import ShardSettings, finished_shard, shard_name, write_shard
from pipeline.data.statistics_table import statistics_notes, statistics_table
from pipeline.data.storage import Folder, Location
from pipeline.data.summary import Summary, SummarySettings, merge, summarize_episodes
from pipeline.distributed.datasource import (
    EpisodeDatasource,
    EpisodeRange,
    Reduce,
    ReducedRange,
    read_ranges,
    rows_within,
)
from pipeline.distributed.session import joins_cluster
from pipeline.errors import DataError, ManifestError, RunFolderError
from pipeline.exclusive import exclusive
from pipeline.experiment import Experiment, stage_identity
from pipeline.progress import Progress
from pipeline.records import Episode
from pipeline.run_folder import RunFolder
from pipeline.stored import yaml_text

FIT_NAME = "fit.npz"
TOLD_SHARDS = 3
"""Of those that are missing or damaged; of all that a folder may lack, the number alone is told."""


@dataclass(frozen=True)
class Prepared:
    """What a preparation gave.

    Attributes:
        manifest: Of the shards.
        peak_bytes: Most memory that any process of a task has ever held.
    """

    manifest: Manifest
    peak_bytes: int


def prepare(experiment: Experiment, run: RunFolder) -> None:
    """Turns the experiment's data sets into shards with a manifest; a Ray session must be running.

    Called again it goes on with the bin edges and shards that are there. Where the manifest is there too, every shard
    is read and held against its size and checksum; those that are damaged or missing are told and made again, and
    where none is, what the data sets hold by then is not looked at any more.

    Raises:
        DataError: A data set that is missing, empty, malformed or not supported.
        ConfigError: Keys or columns that do not exist, too many of them, or fewer bins than a column has states.
        ManifestError: `data.discretizer_from` names shards of other columns.
        RunFolderError: The run's shards were made with another configuration, or are being made.
        StorageError: A location that cannot be read or written, or neither answers nor refuses.
        ClusterError: The cluster did nothing within `data.timeout_s`, or lost what reads a range again and again.
    """
    # This thread waits and takes signals: whatever may meet storage that does not answer is done by others.
    storage, location = Beside(), run.shards_at(experiment.data.output)
    folder = storage.do(lambda: Folder(location), "Looking for the place of the shards")
    looking = f"Looking at what {folder} holds"
    with _held(run, folder, storage), Progress("prepare", unit="steps") as progress:
        claimed = storage.do(lambda: _claim_again(experiment, run, folder), looking)
        finished = storage.do(lambda: _finished_manifest(folder, progress), looking) if claimed else None
        damaged = _damaged(folder, finished, progress, storage) if finished else {}
        if finished is not None and not damaged:
            progress.finish(f"{finished.totals.steps:,} steps are there already, as their checksums say")
            return
        # May download, and reads the length of every episode: it takes the time that it takes.
        preparation = Beside(patient=True).do(lambda: _preparation(experiment, run), "Looking at the data sets")
        require_learnable(preparation.spaces, experiment.data)
        # Not before the data was found: a misspelt name must not be what the folder is of.
        if not claimed:
            storage.do(lambda: _claim(experiment, run, folder), looking)
        manifest = prepare_shards(preparation, location, progress, damaged).manifest
        progress.finish(_last_line(manifest))
    _print_report(manifest)


def _claim_again(experiment: Experiment, run: RunFolder, folder: Folder) -> bool:
    """Returns whether the run's shards are claimed, if they are by this configuration."""
    claimed = claimed_identity(run.shards) is not None
    if claimed:
        _claim(experiment, run, folder)
    return claimed


def _preparation(experiment: Experiment, run: RunFolder) -> Preparation:
    """Returns what is to be prepared."""
    collected = SourceConfig(id=experiment.collect.dataset_id, root=str(run.behaviour))
    if not experiment.data.sources and not dataset_folder(run.behaviour, collected.id).exists():
        raise DataError(
            f"data.sources is empty and {run.behaviour} has no data set {collected.id}; expected one or the other. "
            "Run jobs/collect.py first, or name a data set."
        )
    with _shared_datasets(run):
        sources = resolve_sources(experiment.data, collected)
    return Preparation.of(sources, experiment.data, experiment.seed)


def _shared_datasets(run: RunFolder) -> contextlib.AbstractContextManager[None]:
    """Makes data sets without a `root` lie beside the runs on a cluster: its nodes do not see the driver's home folder.

    A MINARI_DATASETS_PATH that was set decides alone.
    """
    if not joins_cluster() or "MINARI_DATASETS_PATH" in os.environ:
        return contextlib.nullcontext()
    return minari_root(run.datasets)


def prepare_shards(
    preparation: Preparation, location: Location, progress: Progress, damaged: Container[str] = ()
) -> Prepared:
    """Writes shards and manifest of a preparation; see `prepare`.

    Args:
        preparation: What to prepare.
        location: Folder or URI of the shards.
        progress: Shows the steps of both passes, each step counted half in each.
        damaged: Files that are made again, whatever they say of themselves.
    """
    storage = Beside()
    stage = _Stage(preparation, Folder(location), progress, storage)
    fit = stage.fit()
    plan = storage.do(lambda: ShardPlan.of(preparation, fit), "Looking at the data sets")
    records = stage.write(plan, damaged)
    return Prepared(storage.do(lambda: stage.finish(fit, plan, records), "Writing the manifest"), stage.peak_bytes)


class _Stage:
    """The driver's side of the two passes."""

    def __init__(self, preparation: Preparation, folder: Folder, progress: Progress, storage: Beside) -> None:
        self._preparation = preparation
        self._folder = folder
        self._progress = progress
        self._storage = storage
        self.peak_bytes = 0
        self._half_steps = 0
        progress.update(0, total=preparation.index.steps)

    def fit(self) -> Fit:
        """Returns the bin edges of an earlier run over the same data, or finds them."""
        key, known = self._storage.do(self._known_fit, f"Looking for the bin edges in {self._folder}")
        if known is not None:
            return known
        index = self._preparation.index
        blocks = index.blocks(self._preparation.config.steps_per_shard)
        ranges = [EpisodeRange(number, index.take(places)) for number, places in enumerate(blocks)]
        reduce = partial(_summarized, settings=self._preparation.summary_settings)
        summaries = [Summary.from_bytes(row.content) for row in self._run(ranges, reduce, "fit")]
        return self._storage.do(lambda: self._new_fit(merge(summaries), key), f"Writing {self._folder}/{FIT_NAME}")

    def _new_fit(self, summary: Summary, key: str) -> Fit:
        """Returns the bin edges, which may be those of other shards, and keeps them for a run that goes on."""
        fit = fit_summary(summary, self._preparation.config, self._preparation.spaces)
        self._folder.write(FIT_NAME, fit.to_bytes(key))
        return fit

    def _known_fit(self) -> tuple[str, Fit | None]:
        """Returns the name of the data, and the bin edges of an earlier run over the same."""
        key = self._preparation.origin
        if not self._folder.exists(FIT_NAME):
            return key, None
        return key, Fit.from_bytes(self._folder.read(FIT_NAME), key)

    def write(self, plan: ShardPlan, damaged: Container[str]) -> list[ShardRecord]:
        """Writes the shards that are not there yet, or damaged; returns the records of all."""
        self._half_steps = self._preparation.index.steps
        records: dict[int, ShardRecord] = {}
        ranges = []
        for number, places in enumerate(plan.shards):
            # A damaged one may still name its settings, and its bytes would get a checksum of their own.
            known = None if shard_name(number) in damaged else self._finished(number, plan.settings)
            if known is None:
                ranges.append(EpisodeRange(number, plan.index.take(places)))
            else:
                records[number] = known
                self._half_steps += known.steps
        reduce = partial(_written, folder=self._folder.location, settings=plan.settings)
        for row in self._run(ranges, reduce, "write"):
            records[row.number] = ShardRecord.model_validate_json(row.content)
        return [records[number] for number in sorted(records)]

    def _finished(self, number: int, settings: ShardSettings) -> ShardRecord | None:
        reading = f"Reading {self._folder}/{shard_name(number)}"
        return self._storage.do(lambda: finished_shard(self._folder, number, settings), reading)

    def finish(self, fit: Fit, plan: ShardPlan, records: Sequence[ShardRecord]) -> Manifest:
        """Writes the manifest, when what only an unfinished preparation needs, or killed processes left, is gone."""
        manifest = build_manifest(self._preparation, fit, plan, records)
        for name in self._folder.names():
            if name == FIT_NAME or name.endswith(".partial"):
                self._folder.remove(name)
        write_manifest(self._folder.location, manifest)
        return manifest

    def _run(self, ranges: Sequence[EpisodeRange], reduce: Reduce, step: str) -> Iterator[ReducedRange]:
        """Yields what the tasks made of their ranges, in the order of the ranges.

        Raises:
            PipelineError: The first range, in the order of the data, that met an error of the user's.
            ClusterError: No range was done within `data.timeout_s`, or one was lost on each of its attempts.
        """
        if not ranges:
            return
        workers = self._preparation.config.num_workers
        source = EpisodeDatasource(self._preparation.readers, ranges, reduce)
        dataset = read_ranges(source, len(ranges), workers)
        rows = rows_within(dataset, self._preparation.config.timeout_s)
        for part, row in zip(ranges, rows, strict=True):
            result = ReducedRange(**row)
            if result.error:
                raise getattr(errors, result.kind)(result.error)
            assert result.number == part.number, "rows must come in the order of the ranges"
            self.peak_bytes = max(self.peak_bytes, result.peak_bytes)
            self._half_steps += part.index.steps
            self._progress.update(self._half_steps / 2, step=step)
            yield result


def _summarized(
    _index: EpisodeIndex, episodes: Iterator[tuple[int, Episode]], _number: int, settings: SummarySettings
) -> bytes:
    return summarize_episodes(episodes, settings).to_bytes()


def _written(
    index: EpisodeIndex, episodes: Iterator[tuple[int, Episode]], number: int, folder: str, settings: ShardSettings
) -> bytes:
    record = write_shard(Folder(folder), number, with_splits(index, episodes), settings)
    return record.model_dump_json().encode()


@contextlib.contextmanager
def _held(run: RunFolder, folder: Folder, storage: Beside) -> Iterator[None]:
    """Holds the run's shards, and where they go elsewhere on a disk that place too: other runs may name it as well."""
    paths = storage.do(
        lambda: {run.shards.resolve(), (folder.local or run.shards).resolve()}, f"Looking for the place of {run.shards}"
    )
    with contextlib.ExitStack() as stack:
        for path in paths:
            stack.enter_context(exclusive(path, "preparation"))
        yield


def _claim(experiment: Experiment, run: RunFolder, folder: Folder) -> None:
    """Marks the run's shards, and where they go elsewhere that place too, as made from this configuration."""
    identity = stage_identity(experiment, "prepare")
    claim_folder(run.shards, identity, "shards")
    if experiment.data.output is None:
        return
    if folder.exists(IDENTITY):
        require_same(folder, read_identity(folder.read(IDENTITY), folder), identity, "shards")
    elif strangers := [name for name in folder.names() if not name.startswith(".")]:
        raise RunFolderError(
            f"data.output is '{folder}', which holds {strangers[0]!r} but no {IDENTITY}; expected an empty "
            "place, or shards of this configuration."
        )
    else:
        folder.write(IDENTITY, yaml_text(identity).encode())


def _finished_manifest(folder: Folder, progress: Progress) -> Manifest | None:
    """Returns the manifest, None where there is none or it is broken, which is told."""
    if not folder.exists(MANIFEST_NAME):
        return None
    try:
        return read_manifest_alone(folder)
    except ManifestError as error:
        progress.note(f"{error} Making it again.")
        return None


def _damaged(folder: Folder, manifest: Manifest, progress: Progress, storage: Beside) -> dict[str, str]:
    """Returns what is amiss with each of the shards that are not the manifest's, and tells it in one sentence."""
    found: dict[str, str] = {}
    for number, shard in enumerate(manifest.shards, start=1):
        progress.wait(f"shard {number} of {len(manifest.shards)} to be held against its checksum")
        if difference := storage.do(partial(damage, folder, shard), f"Reading {folder}/{shard.file}"):
            found[shard.file] = difference
    if found:
        listing = [f"{name} {difference}" for name, difference in found.items()]
        more = f", and {len(listing) - TOLD_SHARDS} more" if len(listing) > TOLD_SHARDS else ""
        progress.note(
            f"{folder} has {len(found)} of {len(manifest.shards)} shards missing or damaged "
            f"({', '.join(listing[:TOLD_SHARDS])}{more}); expected those of its {MANIFEST_NAME}: they are made again."
        )
    return found


def _last_line(manifest: Manifest) -> str:
    totals = manifest.totals
    size = sum(shard.bytes for shard in manifest.shards)
    return (
        f"{totals.steps:,} steps in {totals.episodes:,} episodes ({totals.validation_episodes:,} for validation), "
        f"{len(manifest.shards)} shard{'s'[: len(manifest.shards) != 1]}, {size / totals.steps:.1f} bytes a step"
    )


def _print_report(manifest: Manifest) -> None:
    console = Console(highlight=False)
    console.print(statistics_table(manifest.statistics))
    for note in statistics_notes(manifest.statistics):
        console.print(note, markup=False)
