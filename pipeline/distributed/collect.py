"""Collects behaviour on Ray actors: chunks of episodes go to whoever is free, and come back as part files."""

import math
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from pipeline.collection.config import CollectConfig
from pipeline.collection.dataset import check_dataset_id, dataset_folder, write_dataset
from pipeline.collection.episodes import CollectedEpisode, Collector
from pipeline.collection.parts import chunk_episodes, chunk_size, part_lengths, part_path, read_part, write_part
from pipeline.configuration import claim_folder
from pipeline.distributed.room import actors_to_start
from pipeline.distributed.session import joins_cluster
from pipeline.environments import EnvironmentConfig
from pipeline.errors import ClusterError, DataError
from pipeline.exclusive import exclusive
from pipeline.experiment import Experiment
from pipeline.progress import Progress
from pipeline.run_folder import RunFolder

MOST_ATTEMPTS = 3
"""How often a chunk is started before a process that dies under it is taken for the chunk's own fault."""

POLL_SECONDS = 0.5


class CollectorActor:
    """Collects chunks of episodes in a process of its own.

    Args:
        environment, config, seed: As for the driver.
        folder: The driver's working directory, which the paths of policy files are relative to.
    """

    def __init__(self, environment: EnvironmentConfig, config: CollectConfig, seed: int, folder: Path) -> None:
        self._collector = Collector(environment, config.behaviours, seed, folder)

    def ready(self) -> bool:
        """Answers once the process has started."""
        return True

    def collect(self, numbers: range, path: str) -> list[int]:
        """Writes the part file `path` of the episodes `numbers` and returns the steps of each."""
        episodes = [self._collector.collect(number) for number in numbers]
        write_part(Path(path), episodes)
        return [len(episode.rewards) for episode in episodes]


def collect(experiment: Experiment, run: RunFolder) -> None:
    """Collects `collect.steps` steps into the run's Minari data set; a Ray session must be running.

    Called again it goes on with the part files that are there, and does nothing where the data set is finished. The
    data set's bytes do not depend on the number of actors: episodes are taken in the order of their numbers until they
    have enough steps, and each follows from the seed and its number.

    Raises:
        ConfigError: A malformed `collect.dataset_id`, or a behaviour that does not fit the environment.
        DataError: A policy file that cannot be read, or a chunk that repeatedly lost its process.
        ClusterError: No chunk ended within `collect.timeout_s`, or no actor starts.
        EnvironmentSetupError: An unknown environment.
        RunFolderError: The run's behaviour was collected with another configuration, or is being collected.
    """
    config = experiment.collect
    check_dataset_id(config.dataset_id)
    # Here in the driver, so that what a user got wrong is told before any actor starts.
    collector = Collector(experiment.environment, config.behaviours, experiment.seed)
    identity = {
        "seed": experiment.seed,
        "environment": experiment.environment.identity(),
        "collect": config.identity(),
    }
    claim_folder(run.behaviour, identity, "behaviour")
    with exclusive(run.behaviour, "collection"), Progress("collect", total=config.steps, unit="steps") as progress:
        if dataset_folder(run.behaviour, config.dataset_id).exists():
            # Left where the process was killed between publishing the data set and removing its parts.
            shutil.rmtree(run.behaviour_parts, ignore_errors=True)
            progress.finish(f"{config.dataset_id} is there already")
            return
        lengths = _Chunks(experiment, run.behaviour_parts, collector.most_steps, progress).run()
        episodes = _first_episodes(run.behaviour_parts, lengths, config.steps)
        write_dataset(run.behaviour, config.dataset_id, episodes, collector.environment)
        shutil.rmtree(run.behaviour_parts)
        total, count = _taken(lengths, config.steps)
        progress.finish(f"{total:,} steps in {count:,} episodes, {config.dataset_id}")


class _Chunks:
    """The driver's side: which chunks are there, which are under way, and who does the next one.

    Args:
        experiment: What to collect.
        parts: Where the part files go.
        most_steps: Of one episode.
        progress: Shows steps and actors.
    """

    def __init__(self, experiment: Experiment, parts: Path, most_steps: int, progress: Progress) -> None:
        self._config = experiment.collect
        self._parts = parts
        self._most_steps, self._size = most_steps, chunk_size(most_steps)
        self._progress = progress
        self._remote = ray.remote(CollectorActor).options(num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD")
        self._arguments = (experiment.environment, experiment.collect, experiment.seed, Path.cwd())
        self._lengths: dict[int, list[int]] = {}
        self._losses: Counter[int | None] = Counter()
        # By call: the actor, and the chunk that it collects, None while it starts.
        self._running: dict[Any, tuple[Any, int | None]] = {}
        self._answered_at = time.monotonic()

    def run(self) -> list[list[int]]:
        """Collects until the chunks from 0 on, without a gap, hold enough steps; returns their episodes' steps."""
        self._lengths.update(self._kept())
        try:
            while not self._enough():
                self._start_actors()
                self._wait()
        finally:
            for actor, _ in self._running.values():
                ray.kill(actor)
        return self._in_order()

    def _kept(self) -> Iterator[tuple[int, list[int]]]:
        """Yields the chunks that an earlier run finished, each with its episodes' steps."""
        for path in sorted(self._parts.glob("part-*.npz")):
            try:
                yield int(path.stem.removeprefix("part-")), part_lengths(path, self._size)
            except DataError as error:
                print(f"{error} They are collected again.", flush=True)

    def _in_order(self) -> list[list[int]]:
        chunks: list[list[int]] = []
        while len(chunks) in self._lengths:
            chunks.append(self._lengths[len(chunks)])
        return chunks

    def _enough(self) -> bool:
        done = sum(map(sum, self._in_order()))
        self._progress.update(min(done, self._config.steps), actors=self._collecting())
        return done >= self._config.steps

    def _collecting(self) -> int:
        return sum(chunk is not None for _, chunk in self._running.values())

    def _next_chunk(self) -> int:
        taken = self._lengths.keys() | {chunk for _, chunk in self._running.values()}
        return next(chunk for chunk in range(len(taken) + 1) if chunk not in taken)

    def _start_actors(self) -> None:
        # At least one: it waits for a CPU, at most collect.timeout_s.
        wanted = max(1, actors_to_start(self._config.num_actors, self._useful(), joins_cluster()))
        while len(self._running) < wanted:
            actor = self._remote.remote(*self._arguments)
            # A chunk is only ever given to an actor that has answered: one that finds no room would keep it for ever.
            self._running[actor.ready.remote()] = (actor, None)

    def _useful(self) -> int:
        """Returns how many actors get something to do: one for each chunk that is missing, at the length of the others.

        Before the first one ended, chunks are taken to be as long as they can be.
        """
        missing = self._config.steps - sum(map(sum, self._in_order()))
        known = sum(map(sum, self._lengths.values())) / len(self._lengths) if self._lengths else 0
        return max(1, math.ceil(missing / (known or self._size * self._most_steps)))

    def _give_work(self, actor: Any) -> None:
        chunk = self._next_chunk()
        call = actor.collect.remote(chunk_episodes(chunk, self._size), str(part_path(self._parts, chunk)))
        self._running[call] = (actor, chunk)

    def _wait(self) -> None:
        """Takes the answers that came within half a second; an actor that answered goes on with the next chunk."""
        done, _ = ray.wait(list(self._running), num_returns=1, timeout=POLL_SECONDS)
        if done:
            self._answered_at = time.monotonic()
        elif time.monotonic() - self._answered_at > self._config.timeout_s:
            raise ClusterError(
                f"no chunk of {self._size} episodes has ended within collect.timeout_s, {self._config.timeout_s:g} "
                f"s; expected one. The cluster has {ray.cluster_resources()}, free are {ray.available_resources()}; "
                f"each of {len(self._running)} actors needs 1 CPU. If the environment is that slow, raise the limit."
            )
        for call in done:
            actor, chunk = self._running.pop(call)
            try:
                answer = ray.get(call)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except ray.exceptions.RayError as error:  # the actor, its node, or the answer on its way was lost
                ray.kill(actor)
                self._lose(chunk, error)
                continue
            if chunk is None:
                self._losses[None] = 0
            else:
                self._lengths[chunk] = answer
            self._give_work(actor)

    def _lose(self, chunk: int | None, error: Exception) -> None:
        """Counts a lost attempt at a chunk, or (None) another actor in a row that ended before it answered."""
        self._losses[chunk] += 1
        if self._losses[chunk] < MOST_ATTEMPTS:
            return
        if chunk is None:
            raise ClusterError(
                f"{MOST_ATTEMPTS} actors in a row ended before they answered; expected them to start. The last one: "
                f"{error}"
            ) from error
        episodes = chunk_episodes(chunk, self._size)
        raise DataError(
            f"episodes {episodes.start} to {episodes.stop - 1} lost their process {MOST_ATTEMPTS} times; expected "
            "them to end within that many attempts. Look for an environment that crashes or needs too much memory. "
            f"The last time: {error}"
        ) from error


def _taken(lengths: list[list[int]], steps: int) -> tuple[int, int]:
    """Returns steps and number of the first episodes that together have at least `steps` steps."""
    total = count = 0
    for length in (length for chunk in lengths for length in chunk):
        if total >= steps:
            break
        total, count = total + length, count + 1
    return total, count


def _first_episodes(parts: Path, lengths: list[list[int]], steps: int) -> Iterator[CollectedEpisode]:
    """Yields the episodes that are taken, chunk by chunk."""
    _, left = _taken(lengths, steps)
    for chunk in range(len(lengths)):
        for episode in read_part(part_path(parts, chunk)):
            if left == 0:
                return
            left -= 1
            yield episode
