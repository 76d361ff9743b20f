"""Collects behaviour on Ray actors: chunks of episodes go to whoever is free, and come back as part files."""

import math
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.beside import Beside
from pipeline.collection.chunks import Chunks
from pipeline.collection.config import CollectConfig
from pipeline.collection.dataset import check_dataset_id, dataset_folder, write_dataset
from pipeline.collection.episodes import CollectedEpisode, Collector
from pipeline.collection.parts import chunk_episodes, part_lengths, part_path, read_part, write_part
from pipeline.configuration import claim_folder
from pipeline.distributed.actor_pool import ActorPool, Limit, Terms
from pipeline.distributed.room import actors_to_start, cpus_there
from pipeline.distributed.session import joins_cluster
from pipeline.distributed.shared_storage import require_shared
from pipeline.environments import EnvironmentConfig
from pipeline.errors import DataError
from pipeline.exclusive import exclusive
from pipeline.experiment import Experiment, stage_identity
from pipeline.progress import Progress
from pipeline.run_folder import RunFolder

MAX_ATTEMPTS = 3
"""How often a chunk is started before a process that dies or hangs under it is taken for the chunk's own fault."""

SECONDS_PER_ACTOR = 60.0
"""Work that a cluster which grows is asked for one more actor for: a process starts in 2 s, a node in minutes."""


@dataclass(frozen=True)
class CollectedChunk:
    """What an actor made.

    Attributes:
        chunk: Its number.
        lengths: Steps of each of its episodes.
        seconds: What it took.
    """

    chunk: int
    lengths: list[int]
    seconds: float


class CollectorActor:
    """Collects chunks of episodes in a process of its own.

    Args:
        environment, config, seed: As for the driver.
        folder: The driver's working directory, which the paths of policy files are relative to.
    """

    def __init__(self, environment: EnvironmentConfig, config: CollectConfig, seed: int, folder: Path) -> None:
        self._collector = Collector(environment, config.behaviours, seed, folder)

    def ready(self) -> bool:
        """Answers once the process has started, if its node sees the runs."""
        require_shared()
        return True

    def collect(self, chunk: int, size: int, path: str) -> CollectedChunk:
        """Writes the part file `path` of a chunk of `size` episodes."""
        began = time.monotonic()
        episodes = [self._collector.collect(number) for number in chunk_episodes(chunk, size)]
        write_part(Path(path), episodes)
        return CollectedChunk(chunk, [len(episode.rewards) for episode in episodes], time.monotonic() - began)


def collect(experiment: Experiment, run: RunFolder) -> None:
    """Collects `collect.steps` steps into the run's Minari data set; a Ray session must be running.

    Called again it goes on with the part files that are there, and does nothing where the data set is finished. The
    data set's bytes do not depend on the number of actors: episodes are taken in the order of their numbers until they
    have enough steps, and each follows from the seed and its number.

    Raises:
        ConfigError: A malformed `collect.dataset_id`, or a behaviour that does not fit the environment.
        DataError: A policy file that cannot be read, or a chunk that repeatedly lost its process or took too long.
        ClusterError: No actor starts within `collect.timeout_s`.
        EnvironmentSetupError: An environment that cannot be made.
        EnvironmentFaultError: One that raised in an episode, or gave what Gymnasium does not foresee.
        RunFolderError: The run's behaviour was collected with another configuration, or is being collected.
        StorageError: The storage of the run neither answers nor refuses.
    """
    config = experiment.collect
    check_dataset_id(config.dataset_id)
    # Here in the driver, so that what a user got wrong is told before any actor starts.
    collector = Collector(experiment.environment, config.behaviours, experiment.seed)
    # This thread waits and takes signals: whatever may meet storage that does not answer is done by others.
    storage = Beside()
    with exclusive(run.behaviour, "collection"), Progress("collect", total=config.steps, unit="steps") as progress:
        if storage.do(lambda: _is_there(experiment, run), f"Looking at what {run.behaviour} holds"):
            progress.finish(f"{config.dataset_id} is there already")
            return
        if collector.origin.not_recorded:
            progress.note(
                f"note: the data set will not name its environment, whose registration cannot be written down: "
                f"{collector.origin.not_recorded}"
            )
        collection = storage.do(
            lambda: _Collection(experiment, run.behaviour_parts, collector.max_steps, progress),
            f"Reading what {run.behaviour_parts} holds",
        )
        lengths = _collected(experiment, collection)
        # It takes the time that so many episodes take.
        Beside(patient=True).do(
            lambda: _publish(run, lengths, experiment, collector), f"Writing the data set into {run.behaviour}"
        )
        total, count = _taken(lengths, config.steps)
        progress.finish(f"{total:,} steps in {count:,} episodes, {config.dataset_id}")


def _is_there(experiment: Experiment, run: RunFolder) -> bool:
    """Claims the folder, and returns whether the data set is finished."""
    claim_folder(run.behaviour, stage_identity(experiment, "collect"), "behaviour")
    if not dataset_folder(run.behaviour, experiment.collect.dataset_id).exists():
        return False
    # Left where the process was killed between publishing the data set and removing its parts.
    shutil.rmtree(run.behaviour_parts, ignore_errors=True)
    return True


def _publish(run: RunFolder, lengths: list[list[int]], experiment: Experiment, collector: Collector) -> None:
    episodes = _first_episodes(run.behaviour_parts, lengths, experiment.collect.steps)
    write_dataset(run.behaviour, experiment.collect.dataset_id, episodes, collector.origin)
    shutil.rmtree(run.behaviour_parts)


def _collected(experiment: Experiment, collection: "_Collection") -> list[list[int]]:
    """Collects what is missing and returns, chunk by chunk, the steps of the episodes."""
    limit = Limit("collect.timeout_s", experiment.collect.timeout_s)
    terms = Terms(1, 0.0, MAX_ATTEMPTS, start=limit, call=limit, advice="Wait for its other work, or raise the limit.")
    arguments = (experiment.environment, experiment.collect, experiment.seed, Path.cwd())
    with ActorPool(CollectorActor, arguments, terms) as pool:
        pool.run(collection)
    return collection.chunks.lengths()


class _Collection:
    """The chunks that are missing, as work of a pool; those that an earlier run finished count as done.

    Args:
        experiment: What to collect.
        parts: Where the part files go.
        max_steps: Of one episode.
        progress: Shows steps and actors.
    """

    slots = 1

    def __init__(self, experiment: Experiment, parts: Path, max_steps: int, progress: Progress) -> None:
        self._config, self._parts, self._progress = experiment.collect, parts, progress
        self.chunks = Chunks(self._config.steps, max_steps)
        for chunk, lengths in self._kept():
            self.chunks.add(chunk, lengths)

    def _kept(self) -> Iterator[tuple[int, list[int]]]:
        """Yields the chunks that an earlier run finished, each with its episodes' steps."""
        for path in sorted(self._parts.glob("part-*.npz")):
            try:
                yield int(path.stem.removeprefix("part-")), part_lengths(path, self.chunks.size)
            except DataError as error:
                print(f"{error} They are collected again.", flush=True)

    def num_actors(self) -> int:
        # At least one: it waits for a CPU, at most collect.timeout_s.
        return max(1, actors_to_start(self._config.num_actors, self._useful_actors(), joins_cluster()))

    def _useful_actors(self) -> int:
        worth_a_node = math.ceil(self.chunks.seconds_left / SECONDS_PER_ACTOR)
        return max(1, min(self.chunks.missing, max(cpus_there(), worth_a_node)))

    def next_piece(self) -> int | None:
        return self.chunks.next()

    def call(self, actor: Any, pieces: Mapping[int, int]) -> Any:
        (chunk,) = pieces
        return actor.collect.remote(chunk, self.chunks.size, str(part_path(self._parts, chunk)))

    def take(self, answer: CollectedChunk) -> set[int]:
        self.chunks.add(answer.chunk, answer.lengths, answer.seconds)
        return {answer.chunk}

    def give_up(self, piece: int, reason: str) -> None:
        episodes = chunk_episodes(piece, self.chunks.size)
        raise DataError(
            f"episodes {episodes.start} to {episodes.stop - 1} lost their process {MAX_ATTEMPTS} times; expected "
            "them to end within that many attempts. Look for an environment that crashes, hangs or needs too much "
            f"memory, or is so slow that collect.timeout_s must be raised. The last time: {reason}"
        )

    def is_done(self) -> bool:
        return not self.chunks.missing

    def show(self, actors: int, lost_actors: int) -> None:
        done = min(self.chunks.steps, self._config.steps)
        self._progress.update(done, actors=actors, lost_actors=lost_actors or None)


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
