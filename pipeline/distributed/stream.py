"""Training windows streamed through Ray Data, for shards that do not fit into a worker's memory.

Each worker runs a Ray Data pipeline of its own over the chunks that are left (`pipeline.training.chunks`), and takes
its share of each global batch from it. Not Ray Train's `datasets=`: that splits rows among the workers of one start
and cannot be entered in the middle, so neither a resumed nor an elastic run would see each window once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import ray.data
import torch
from numpy.typing import NDArray

from pipeline.data.manifest import Manifest
from pipeline.data.shards import count_steps, read_table
from pipeline.data.storage import Location
from pipeline.data.table import Rank
from pipeline.distributed.room import cluster_in_words
from pipeline.distributed.shared_storage import require_shared
from pipeline.distributed.waiting import within
from pipeline.errors import ClusterError
from pipeline.methods.training import MethodTraining
from pipeline.seeding import stream
from pipeline.training.chunks import Chunk, ChunkOrder, positions_of
from pipeline.training.windows import ResidentWindows, Windows, moved, share_of
from pipeline.training.world import World

CPUS_PER_READ = 0.5
"""CPUs of one task that reads a chunk; the workers leave at least one CPU to these tasks."""


@dataclass(frozen=True)
class StreamSettings:
    """What the tasks of a stream need to know.

    Attributes:
        shards: Where the shards lie.
        manifest: Of the shards.
        columns: What is read of each step.
        lowest: The worst episode that is wanted, None where all are.
        window: Steps of a window.
        chunk_transitions: Start indices that windows are shuffled among.
        seed: Root seed.
        batch_size: Windows of a global batch.
        total_steps: Optimizer steps of the whole run.
        timeout_s: Seconds that a chunk is waited for, at most.
    """

    shards: Location
    manifest: Manifest
    columns: tuple[str, ...]
    lowest: Rank | None
    window: int
    chunk_transitions: int
    seed: int
    batch_size: int
    total_steps: int
    timeout_s: float


class StreamedWindows:
    """The training windows of one worker, from `first_step` on.

    Args:
        settings: Of the stream.
        first_step: Optimizer step of the first batch.
        world: The workers.

    Raises:
        ClusterError: No chunk came in time; `batch` raises it, too.
    """

    def __init__(self, settings: StreamSettings, first_step: int, world: World) -> None:
        self._device = world.device
        self._share = share_of(settings.batch_size, world.rank, world.size)
        # A run that only has its last epoch to report reads nothing; Ray Data refuses to.
        self._rows = _Rows(_arrays(settings, first_step, self._share)) if first_step < settings.total_steps else None

    def batch(self, step: int) -> Windows:  # noqa: ARG002 (steps come in order; the stream knows where it is)
        """Returns this worker's windows of the next optimizer step."""
        assert self._rows is not None
        rows = self._rows.take(self._share.stop - self._share.start)
        tensors = {name: moved(torch.from_numpy(array), self._device) for name, array in rows.items()}
        facts = [tensors.pop(name) for name in _FACTS]
        return Windows(tensors, *facts)


_FACTS = ("real", "terminated", "timesteps")
"""What `Windows` has beside its columns; no column is called so."""

Arrays = dict[str, NDArray[Any]]


class _Rows:
    """Takes any number of rows from arrays that come in pieces of any length."""

    def __init__(self, pieces: Iterator[Arrays]) -> None:
        self._pieces, self._piece = pieces, next(pieces)

    def take(self, count: int) -> Arrays:
        parts: list[Arrays] = []
        while count:
            part = {name: array[:count] for name, array in self._piece.items()}
            self._piece = {name: array[count:] for name, array in self._piece.items()}
            parts.append(part)
            count -= len(part["real"])
            if count:
                self._piece = next(self._pieces)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _arrays(settings: StreamSettings, first_step: int, share: slice) -> Iterator[Arrays]:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    steps = [count_steps(settings.shards, shard, "train", settings.lowest) for shard in settings.manifest.shards]
    first, last = first_step * settings.batch_size, settings.total_steps * settings.batch_size
    chunks = list(ChunkOrder(steps, settings.chunk_transitions, settings.seed).between(first, last))
    items = ray.data.from_items([{"chunk": index} for index in range(len(chunks))], override_num_blocks=len(chunks))
    windows = items.map_batches(
        _read_chunk,
        fn_kwargs={"chunks": chunks, "settings": settings, "share": share, "first": first, "last": last},
        batch_size=1,
        num_cpus=CPUS_PER_READ,
    )
    batches = windows.iter_batches(batch_size=None, prefetch_batches=1)
    yield from within(batches, settings.timeout_s, lambda: _unread(settings.timeout_s))


def _unread(seconds: float) -> ClusterError:
    return ClusterError(
        f"No chunk of shards was read within workers.start_timeout_s, {seconds:g} s; expected one. "
        f"{cluster_in_words()} Reading takes {CPUS_PER_READ:g} CPU: lower workers.cpus, workers.number or "
        "training.shuffle_transitions, or raise training.resident_gib, and run the same command again."
    )


def _read_chunk(
    batch: dict[str, NDArray[np.int64]],
    chunks: list[Chunk],
    settings: StreamSettings,
    share: slice,
    first: int,
    last: int,
) -> dict[str, NDArray[Any]]:
    """Returns the windows of one chunk that belong to one worker, in the order of the stream."""
    require_shared()
    chunk = chunks[int(batch["chunk"][0])]
    shards = [settings.manifest.shards[index] for index in chunk.shards]
    episodes = read_table(settings.shards, "train", settings.columns, shards, settings.lowest)
    windows = ResidentWindows(episodes, settings.window, torch.device("cpu"))
    positions = positions_of(chunk, first, last, settings.batch_size, share)
    gathered = windows.gather(chunk.starts(positions, settings.seed))
    columns = {name: column.numpy() for name, column in gathered.columns.items()}
    return columns | {name: getattr(gathered, name).numpy() for name in _FACTS}


def some_held_out(training: MethodTraining, num_windows: int, device: torch.device) -> ResidentWindows:
    """Returns held-out windows of as many shards, in a random order, as give `num_windows` start indices."""
    shards, lowest = training.manifest.shards, training.held_out.lowest
    order = stream(training.task.seed, "validation shards").permutation(len(shards))
    chosen, steps = [], 0
    for index in order:
        if steps >= num_windows:
            break
        chosen.append(shards[index])
        steps += count_steps(training.shards, shards[index], "validation", lowest)
    episodes = read_table(training.shards, "validation", training.method.columns, chosen, lowest)
    return ResidentWindows(episodes, training.window, device)
