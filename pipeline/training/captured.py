"""A whole update as one CUDA graph: some 400 dependent small kernels without a launch from Python each.

On an H200 the paper's hopper model takes 18 ms a step for 256 windows where the host launches every kernel, while the
kernels themselves take half of that or less.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

import torch

from pipeline.training.windows import Windows

_WARM_UPS = 3
"""Updates before the capture, real ones: they load kernels, and allocate workspaces and the optimizer's state."""

Result = TypeVar("Result")


class CapturedUpdate(Generic[Result]):
    """Calls `update`, after the first times by replaying what it launches.

    Random numbers follow the device's generator as it stands at each call, as they would without a graph.

    Args:
        update: Of a model and an optimizer on one CUDA device, with shapes that no data decides.
    """

    def __init__(self, update: Callable[[Windows], Result]) -> None:
        self._update, self._calls = update, 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Windows) -> Result:
        """Returns what `update(batch)` would; the next call overwrites it.

        Raises:
            ValueError: The batch has another size than the first one.
        """
        device = batch.real.device
        with torch.cuda.device(device):
            if self._calls < _WARM_UPS:
                self._calls += 1
                return self._beside(batch)
            if self._graph is None:
                self._capture(batch)
            self._batch.copy_(batch)
            assert self._graph is not None
            self._graph.replay()
        return self._result

    def _beside(self, batch: Windows) -> Result:
        """Runs it on another stream than the default one, which a capture could not wait for."""
        side: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            result = self._update(batch)
        torch.cuda.current_stream().wait_stream(side)
        return result

    def _capture(self, batch: Windows) -> None:
        self._batch = batch.clone()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._result = self._update(self._batch)
