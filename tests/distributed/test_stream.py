import dataclasses
import gc
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from numpy.typing import NDArray

from pipeline.data.config import DataConfig
from pipeline.data.manifest import read_manifest
from pipeline.data.selection import best_episodes
from pipeline.data.shards import count_steps, read_table
from pipeline.data.table import OBSERVATIONS, RETURNS_TO_GO, TOKENS
from pipeline.distributed.stream import StreamedWindows, StreamSettings, some_held_out
from pipeline.errors import ClusterError
from pipeline.training.windows import ResidentWindows, Windows, share_of
from pipeline.training.world import World
from tests.data.in_memory import write_shards
from tests.distributed.training_runs import make_run
from tests.training.tasks import make_episodes, make_task


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> StreamSettings:
    """Two passes through several chunks, in batches of 16."""
    _, run = make_run(tmp_path_factory.mktemp("stream"))
    return StreamSettings(
        run.shards, read_manifest(run.shards), (TOKENS, OBSERVATIONS, RETURNS_TO_GO), None, 4, 30, 0, 16, 24, 60.0
    )


def rows(batch: Windows) -> list[list[float]]:
    """All that a window says, one list each; what lies beyond the end of its episode may be anything."""
    columns = [column.flatten(2) if column.dim() > 2 else column[:, :, None] for column in batch.columns.values()]
    known = torch.cat([column.double() for column in columns], 2) * batch.real[:, :, None]
    facts = (batch.real, batch.terminated[:, None], batch.timesteps)
    return torch.cat([known.flatten(1), *(fact.double() for fact in facts)], 1).tolist()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
class TestStream:
    @pytest.mark.slow
    @pytest.mark.parametrize("share", [1.0, 0.5])
    def test_streamed_windows_are_those_of_the_shards(self, settings: StreamSettings, share: float) -> None:
        """Of the best episodes alone, and entered in the middle too, without and with a second worker."""
        lowest = best_episodes(settings.shards, settings.manifest, "train", share).lowest
        settings = dataclasses.replace(settings, lowest=lowest)
        whole = StreamedWindows(settings, 0, World())
        batches = [whole.batch(step) for step in range(settings.total_steps)]
        episodes = read_table(settings.shards, "train", settings.columns, lowest=lowest)
        resident = ResidentWindows(episodes, 4, torch.device("cpu"))
        expected = resident.gather(np.arange(resident.num_starts))
        streamed = [row for batch in batches for row in rows(batch)]
        assert sorted(streamed[: resident.num_starts]) == sorted(rows(expected))
        assert not expected.terminated.all()  # some episodes are truncated
        for rank in range(2):
            part = share_of(16, rank, 2)
            late = StreamedWindows(settings, 3, World(rank, 2))
            for step in range(3, 6):
                assert rows(late.batch(step)) == rows(batches[step].slice(part))

    @pytest.mark.slow
    def test_a_chunk_that_finds_no_cpu_to_be_read_with_is_given_up(self, settings: StreamSettings) -> None:
        hasty = dataclasses.replace(settings, timeout_s=2.0)
        taken = ray.util.placement_group([{"CPU": 2}])
        ray.get(taken.ready(), timeout=60)
        try:
            with pytest.raises(
                ClusterError, match=r"No chunk .*workers\.start_timeout_s, 2 s; .*Reading takes 0\.5 CPU"
            ):
                StreamedWindows(hasty, 0, World())
        finally:
            ray.util.remove_placement_group(taken)
        gc.collect()
        for thread in threading.enumerate():
            if thread.name.startswith(("next of Ray Data", "StreamingExecutor")):
                thread.join(60)  # it finds its CPU now; Ray must not end under it


def test_a_run_without_a_step_left_streams_nothing(settings: StreamSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may still have its last epoch to report."""
    streams: list[Any] = []
    monkeypatch.setattr("pipeline.distributed.stream._arrays", lambda *of: streams.append(of) or iter([of]))
    StreamedWindows(settings, settings.total_steps, World())
    assert not streams


def test_some_held_out_episodes_are_those_of_whole_shards_in_a_random_order(tmp_path: Path) -> None:
    data = DataConfig(num_bins=10, validation_share=0.5, steps_per_shard=40)
    manifest = write_shards(tmp_path / "shards", make_episodes(40), data)
    every = read_table(tmp_path / "shards", "validation", [TOKENS])[TOKENS]
    training = make_task(tmp_path)
    held = [count_steps(tmp_path / "shards", shard, "validation") for shard in manifest.shards]
    assert sum(held) == len(every)
    assert sum(steps > 0 for steps in held) > 5

    def some(num_windows: int, seed: int = 0) -> NDArray[Any]:
        task = dataclasses.replace(training.task, seed=seed)
        windows = some_held_out(dataclasses.replace(training, task=task), num_windows, torch.device("cpu"))
        return windows.gather(np.arange(windows.num_starts))[TOKENS][:, 0].numpy()

    least = len(every) // 2
    assert least <= len(some(least)) < least + max(held)
    assert np.array_equal(some(least), some(least))
    assert len({some(1, seed).tobytes() for seed in range(8)}) > 1
    assert len(some(10**6)) == len(every)
