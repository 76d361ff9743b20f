"""Times prepare against the plain numpy reference, from one HDF5 file to Parquet, and compares every token."""

import itertools
import resource
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import minari
import numpy as np
from gymnasium.spaces import Box
from minari.data_collector import EpisodeBuffer
from numpy.typing import NDArray

from pipeline.benchmarks.options import PrepareBenchmark
from pipeline.collection.dataset import minari_root
from pipeline.data.config import DataConfig, SourceConfig
from pipeline.data.manifest import read_manifest
from pipeline.data.minari_source import MinariSource
from pipeline.data.plan import Preparation
from pipeline.data.resolve import resolve_sources
from pipeline.data.shards import read_table
from pipeline.data.table import TOKENS
from pipeline.distributed.prepare import prepare_shards
from pipeline.distributed.session import session
from pipeline.progress import Progress
from pipeline.references.prepare import ReferenceTokens, reference_prepare
from pipeline.seeding import stream

DATASET = "benchmark/hopper-v0"
EPISODE_STEPS = 480
"""About the mean of D4RL's hopper-medium."""


@dataclass(frozen=True)
class Measurement:
    """One number of workers.

    Attributes:
        workers: Tasks at once.
        seconds: Of the preparation, on a running Ray session.
        reference_seconds: Of the reference, run right before it; None if it was not run.
        identical: All tokens and edges are the reference's; None if it was not run.
        bytes_per_step: Of the shards.
        peak_worker_gib: Most memory that a worker's process held.
    """

    workers: int
    seconds: float
    reference_seconds: float | None
    identical: bool | None
    bytes_per_step: float
    peak_worker_gib: float


def run(options: PrepareBenchmark) -> dict[str, Any]:
    """Measures the numbers of workers one by one and returns what the last one gave, with all of them beside it."""
    with tempfile.TemporaryDirectory() as name, session():
        folder = Path(name)
        steps = make_dataset(folder, options)
        _warm_up()
        measurements = [_middle(folder, options, workers) for workers in options.workers]
    last = measurements[-1]
    return {
        "benchmark": "prepare",
        "steps": steps,
        "source": options.source or "random walks",
        **asdict(last),
        "ratio": last.reference_seconds / last.seconds if last.reference_seconds else None,
        "steps_per_second": round(steps / last.seconds),
        # The driver holds the sample, and here the reference's whole data set before it.
        "peak_driver_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "by_workers": [asdict(measurement) for measurement in measurements],
    }


def _warm_up() -> None:
    """Starts the processes that the first execution of a session would wait for."""
    with tempfile.TemporaryDirectory() as name:
        small = PrepareBenchmark(steps=2 * EPISODE_STEPS, reference=False)
        make_dataset(Path(name), small)
        _measure(Path(name), small, 1)


def make_dataset(root: Path, options: PrepareBenchmark) -> int:
    """Writes the data set that is prepared below `root` and returns its steps."""
    observations, actions, _ = next(_episodes(options))
    boxes = [Box(-np.inf, np.inf, part.shape[1:], np.float32) for part in (observations, actions)]
    with minari_root(root), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="minari")
        dataset = minari.create_dataset_from_buffers(
            DATASET, _buffers(options), observation_space=boxes[0], action_space=boxes[1], data_format="hdf5"
        )
    return int(dataset.total_steps)


def _buffers(options: PrepareBenchmark) -> Iterator[EpisodeBuffer]:
    steps = 0
    for number, (observations, actions, rewards) in enumerate(_episodes(options)):
        if steps >= options.steps:
            return
        steps += len(rewards)
        ends = np.zeros((2, len(rewards)), dtype=np.bool_)
        ends[0, -1] = True
        yield EpisodeBuffer(
            id=number,
            observations=observations.astype(np.float32),
            actions=actions.astype(np.float32),
            rewards=rewards,
            terminations=ends[0],
            truncations=ends[1],
        )


def _episodes(options: PrepareBenchmark) -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """Yields observations, actions and rewards of one episode after another, without end."""
    source = None if options.source is None else MinariSource.open(options.source, options.source)
    ids = [] if source is None else source.listing().ids.tolist()
    for number in itertools.count():
        generator = stream(0, "benchmark", number)
        if source is None:
            noise = generator.normal(size=(EPISODE_STEPS + 1, 11))
            observations = 0.3 * np.cumsum(noise, axis=0) / np.sqrt(np.arange(1.0, EPISODE_STEPS + 2))[:, None]
            actions = np.clip(generator.normal(size=(EPISODE_STEPS, 3)), -1, 1)
            yield observations, actions, 1 + 0.5 * generator.normal(size=EPISODE_STEPS)
            continue
        (episode,) = source.read([ids[number % len(ids)]])
        # A little noise: repeated episodes would compress to nothing.
        noise = generator.normal(scale=1e-3, size=episode.observations.shape)
        yield episode.observations + noise, episode.actions, episode.rewards


def _middle(folder: Path, options: PrepareBenchmark, workers: int) -> Measurement:
    """Alternates reference and pipeline, and returns the round of the middle time."""
    rounds = [_measure(folder, options, workers) for _ in range(options.rounds)]
    return sorted(rounds, key=lambda measurement: measurement.seconds)[(len(rounds) - 1) // 2]


def _measure(folder: Path, options: PrepareBenchmark, workers: int) -> Measurement:
    data = folder / DATASET / "data" / "main_data.hdf5"
    reference, reference_seconds = None, None
    config = DataConfig(num_bins=options.num_bins, num_workers=workers, validation_share=0.0)
    if options.reference:
        # The reference knows exact quantiles only.
        config = config.model_copy(update={"sample_numbers": 2**62})
    if options.reference:
        started = time.perf_counter()
        reference = reference_prepare(data, folder / "reference.parquet", config.num_bins, config.discount)
        reference_seconds = time.perf_counter() - started
    with tempfile.TemporaryDirectory(dir=folder) as shards:
        started = time.perf_counter()
        entry = SourceConfig(id=DATASET, root=str(folder))
        preparation = Preparation.of(resolve_sources(config, entry), config, seed=0)
        with Progress("prepare", unit="steps") as progress:
            prepared = prepare_shards(preparation, shards, progress)
        seconds = time.perf_counter() - started
        identical = None if reference is None else _identical(shards, reference)
    return Measurement(
        workers=workers,
        seconds=seconds,
        reference_seconds=reference_seconds,
        identical=identical,
        bytes_per_step=sum(shard.bytes for shard in prepared.manifest.shards) / prepared.manifest.totals.steps,
        peak_worker_gib=prepared.peak_bytes / 2**30,
    )


def _identical(shards: str, reference: ReferenceTokens) -> bool:
    """Whether edges, episodes and every token are the reference's."""
    episodes, manifest = read_table(shards, "train", [TOKENS]), read_manifest(shards)
    return (
        np.array_equal(episodes[TOKENS], reference.tokens)
        and np.array_equal(np.diff(episodes.offsets), reference.lengths)
        and [list(row) for row in manifest.edges] == [row.tolist() for row in reference.edges]
    )
