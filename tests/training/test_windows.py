import numpy as np
import pytest
import torch

from pipeline.data.shards import TokenEpisodes
from pipeline.tokens.layout import TransitionLayout
from pipeline.training.windows import ResidentWindows, held_dtype, moved


def episodes_of(dtype: type[np.uint8 | np.uint16], num_bins: int) -> TokenEpisodes:
    layout = TransitionLayout.plain(2, 1, num_bins)
    tokens = np.arange(5 * layout.transition_dim, dtype=dtype).reshape(5, -1)
    return TokenEpisodes(layout, tokens, np.array([0, 5]), np.array([True]))


@pytest.mark.parametrize(("dtype", "num_bins"), [(np.uint8, 100), (np.uint16, 300)])
def test_tokens_take_the_bytes_that_are_counted_for_them(dtype: type[np.uint8 | np.uint16], num_bins: int) -> None:
    windows = ResidentWindows(episodes_of(dtype, num_bins), 2, torch.device("cpu"))
    assert windows.gather(np.array([1])).tokens.element_size() == held_dtype(dtype).itemsize


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
    episodes = episodes_of(np.uint8, 100)
    windows = ResidentWindows(episodes, 2, torch.device("cpu"))
    assert np.shares_memory(windows._tokens.numpy(), episodes.tokens)
