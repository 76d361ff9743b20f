"""A whole search as one CUDA graph: hundreds of dependent small steps without a launch from Python each.

On an H200 a plan for one episode of hopper takes 78 ms so, and 1060 ms where Python launches its 25 000 kernels.
`tests/planning/test_captured.py` holds it against the search that it captures where there is a GPU, and
`tests/planning/test_search.py` the search against what a capture forbids on any machine.
"""

from dataclasses import fields

import torch

from pipeline.planning.search import BeamSearch, SearchInputs, SearchResult

_WARM_UPS = 2
"""Runs before the capture: kernels are loaded and workspaces allocated outside the graph."""


class CapturedSearch:
    """Replays `search` on new inputs of the same shapes.

    Args:
        search: All its tensors on one CUDA device, with a stepper whose shapes no data decides.
        example: Inputs of the shapes that all later ones have.
    """

    def __init__(self, search: BeamSearch, example: SearchInputs) -> None:
        # The graph knows addresses, not tensors: the search must live as long as it, or its constants are given away.
        self._search = search
        self._inputs = SearchInputs(*(getattr(example, field.name).clone() for field in fields(example)))
        self._device = example.observations.device
        with torch.cuda.device(self._device):
            side: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(_WARM_UPS):
                    search(self._inputs)
            torch.cuda.current_stream().wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._result = search(self._inputs)

    def __call__(self, inputs: SearchInputs) -> SearchResult:
        """Returns what `search(inputs)` would; the next call overwrites it."""
        with torch.cuda.device(self._device):
            for field in fields(inputs):
                getattr(self._inputs, field.name).copy_(getattr(inputs, field.name))
            self._graph.replay()
        return self._result
