from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.config import DataConfig
from pipeline.data.table import TOKENS, EpisodeTable
from pipeline.errors import DataError
from pipeline.training.windows import ResidentWindows, Windows, moved
from tests.data.in_memory import write_shards
from tests.training.tasks import make_episodes, make_task

CPU = torch.device("cpu")


def episodes_of(dtype: type[np.generic], lengths: tuple[int, ...] = (5,)) -> EpisodeTable:
    """Episodes whose tokens are 4 of each step's number, the first and every second one terminated."""
    steps = sum(lengths)
    tokens = np.arange(steps, dtype=dtype).repeat(4).reshape(steps, 4)
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    return EpisodeTable({TOKENS: tokens}, offsets, np.arange(len(lengths)) % 2 == 0, np.zeros(len(lengths)))


@pytest.mark.parametrize(
    ("given", "held"), [(np.uint8, torch.uint8), (np.uint16, torch.int32), (np.float32, torch.float32)]
)
def test_a_column_keeps_its_type_but_for_integers_of_two_bytes(given: type[np.generic], held: torch.dtype) -> None:
    tokens = ResidentWindows(episodes_of(given), 2, CPU).gather(np.array([1]))[TOKENS]
    assert tokens.dtype is held
    assert tokens[0, :, 0].tolist() == [1, 2]


@pytest.mark.parametrize("num_bins", [10, 300])
def test_windows_take_the_bytes_that_are_counted_for_them(tmp_path: Path, num_bins: int) -> None:
    write_shards(tmp_path / "shards", make_episodes(), DataConfig(num_bins=num_bins))
    training = make_task(tmp_path)
    windows = [training.resident_windows(split, CPU) for split in ("train", "validation")]
    held = sum(column.nbytes for part in windows for column in part._columns.values())
    assert training.bytes == held


def test_a_window_knows_where_its_episode_begins_and_ends() -> None:
    batch = ResidentWindows(episodes_of(np.uint8, (3, 2, 1)), 3, CPU).gather(np.array([0, 1, 2, 3, 4, 5]))
    assert batch.timesteps.tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [0, 1, 2], [1, 2, 3], [0, 1, 2]]
    inside = [[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 0, 0]]
    assert batch.real.int().tolist() == inside
    assert batch.terminated.tolist() == [True, True, True, False, False, True]
    found, expected = batch[TOKENS][:, :, 0], torch.arange(6)[:, None] + torch.arange(3)
    assert torch.equal(found[batch.real], expected[batch.real].to(torch.uint8))


def test_a_part_of_some_windows_is_all_that_they_have() -> None:
    windows = ResidentWindows(episodes_of(np.uint8, (3, 2, 1)), 3, CPU)
    part, alone = windows.gather(np.arange(6)).slice(slice(2, 5)), windows.gather(np.arange(2, 5))
    assert isinstance(part, Windows)
    assert len(part) == len(alone) == 3
    assert part.columns.keys() == alone.columns.keys()
    assert torch.equal(part[TOKENS], alone[TOKENS])
    for name in ("real", "terminated", "timesteps"):
        assert torch.equal(getattr(part, name), getattr(alone, name))


def test_there_are_no_windows_of_no_episodes() -> None:
    with pytest.raises(DataError, match="The split has 0 transitions; expected at least 1"):
        ResidentWindows(episodes_of(np.uint8, ()), 2, CPU)


def test_what_goes_to_a_gpu_is_pinned_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy from pageable memory waits for what the GPU still has to do; on a CPU nothing is copied."""
    calls: list[object] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: calls.append("pinned") or tensor)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *where, **how: calls.append((*where, how)) or tensor)
    tensor, cpu, cuda = torch.zeros(1), torch.device("cpu"), torch.device("cuda")
    assert moved(tensor, cpu) is tensor
    assert moved(tensor, cuda) is tensor
    assert calls == [(cpu, {"non_blocking": True}), "pinned", (cuda, {"non_blocking": True})]


def test_tokens_on_the_cpu_are_held_once() -> None:
    episodes = episodes_of(np.uint8)
    windows = ResidentWindows(episodes, 2, CPU)
    assert np.shares_memory(windows._columns[TOKENS].numpy(), episodes[TOKENS])
