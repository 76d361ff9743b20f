"""Ray Data's way to our episodes: one read task per range, each reduced to one row where it is read."""

import resource
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.data import Datasource, ReadTask
from ray.data.block import Block, BlockMetadata

from pipeline.data.index import EpisodeIndex, read_episodes
from pipeline.data.sources import Source
from pipeline.distributed.room import no_room
from pipeline.distributed.shared_storage import require_shared
from pipeline.distributed.waiting import within
from pipeline.errors import ClusterError, PipelineError
from pipeline.records import Episode

MAX_ATTEMPTS = 3
"""How often a range is begun before a process that dies under it is taken for the range's own fault."""

Reduce = Callable[[EpisodeIndex, Iterator[tuple[int, Episode]], int], bytes]


@dataclass(frozen=True)
class EpisodeRange:
    """Consecutive episodes that one task reads.

    Attributes:
        number: Place of the range among all ranges.
        index: Its episodes.
    """

    number: int
    index: EpisodeIndex


@dataclass(frozen=True)
class ReducedRange:
    """What a task made of its range.

    Attributes:
        number: Of the range.
        content: What the reduction returned.
        error: Message of the error that a user can put right, "" if there was none.
        kind: Name of that error's class.
        peak_bytes: Most memory that the task's process has ever held.
    """

    number: int
    content: bytes
    error: str
    kind: str
    peak_bytes: int


class EpisodeDatasource(Datasource):  # type: ignore[misc]  # Ray has no types
    """Reads ranges of episodes and reduces each to bytes, so that episodes never travel between processes.

    An error of the data comes back as a row: raised in a task, Ray Data would print its traceback several times, and
    which of two bad episodes is reported would depend on timing.

    Args:
        sources: Small and picklable; a task opens what it needs.
        ranges: In order.
        reduce: Takes the index of a range, its episodes, one in memory at a time, and its number.
    """

    def __init__(self, sources: Sequence[Source], ranges: Sequence[EpisodeRange], reduce: Reduce) -> None:
        super().__init__()
        self._sources, self._ranges, self._reduce = list(sources), list(ranges), reduce

    def estimate_inmemory_data_size(self) -> int:
        """Returns a guess of the rows' bytes; what is read stays in the tasks."""
        return len(self._ranges) * 1024

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002 (Ray's signature)
        per_task_row_limit: int | None = None,
        data_context: object = None,  # noqa: ARG002
    ) -> list[ReadTask]:
        """Returns one task per range, whatever the parallelism: results must not depend on it."""
        return [self._task(part, per_task_row_limit) for part in self._ranges]

    def _task(self, part: EpisodeRange, per_task_row_limit: int | None) -> ReadTask:
        metadata = BlockMetadata(num_rows=1, size_bytes=1024, exec_stats=None, input_files=None)
        sources, reduce = self._sources, self._reduce
        return ReadTask(lambda: _reduced(sources, part, reduce), metadata, per_task_row_limit=per_task_row_limit)


def read_ranges(source: EpisodeDatasource, ranges: int, workers: int | None) -> "ray.data.Dataset":
    """Returns the rows of `source`, one for each of its `ranges`, which are read when rows are asked for.

    Args:
        source: What to read.
        ranges: How many, so that each is a task of its own.
        workers: Tasks at once; None leaves it to Ray Data, which also asks a cluster that can grow for more.
    """
    with warnings.catch_warnings():
        # Ray Data repeats a task whose process dies for ever, and in 2.60 this is the only way to say otherwise.
        warnings.simplefilter("ignore", DeprecationWarning)
        return ray.data.read_datasource(
            source,
            override_num_blocks=ranges,
            # More workers than ranges would make Ray Data warn.
            concurrency=None if workers is None else min(workers, ranges),
            num_cpus=1,
            ray_remote_args={"max_retries": MAX_ATTEMPTS - 1},
        )


def rows_within(dataset: "ray.data.Dataset", seconds: float) -> Iterator[dict[str, Any]]:
    """Yields the rows of `dataset`, waiting at most `seconds` for each.

    Raises:
        ClusterError: No row came in time, as where the cluster has no CPU to give; or a task was lost on each of its
            attempts.
    """
    try:
        yield from within(dataset.iter_rows(), seconds, lambda: _unread(seconds))
    except ray.exceptions.RayTaskError:  # a defect in the task itself
        raise
    except ray.exceptions.RayError as error:
        raise ClusterError(
            f"a range of episodes was not read in {MAX_ATTEMPTS} attempts; expected its task to end in one of them "
            f"({type(error).__name__}: {str(error).strip().partition(chr(10))[0]}). Look for nodes that are lost or "
            "short of memory: lower data.num_workers or data.steps_per_shard, and run the same command again."
        ) from error


def _unread(seconds: float) -> ClusterError:
    return no_room(
        f"no range of episodes was read within data.timeout_s, {seconds:g} s",
        cpus=1,
        gpus=0,
        advice="If the data set is that slow to read, raise the limit or lower data.steps_per_shard.",
    )


def _reduced(sources: Sequence[Source], part: EpisodeRange, reduce: Reduce) -> Iterable[Block]:
    content, error, kind = b"", "", ""
    try:
        require_shared()
        content = reduce(part.index, read_episodes(sources, part.index), part.number)
    except PipelineError as caught:
        error, kind = str(caught), type(caught).__name__
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    row = {"number": part.number, "content": content, "error": error, "kind": kind, "peak_bytes": peak}
    yield pa.Table.from_pylist([row])
