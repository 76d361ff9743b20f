from collections.abc import Sequence

import pytest
import ray

from pipeline.distributed.room import cluster_in_words


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([(4.0, 0.0)], "1 node with 4 CPUs and 0 GPUs, of which 1 CPU and 0 GPUs are free."),
        (
            # A worker of 9 CPUs finds no room, however many are free in all: the sizes say why.
            [(4.0, 0.0), (8.0, 1.0), (4.0, 0.0)],
            "3 nodes (2 of 4 CPUs and 0 GPUs, 1 of 8 CPUs and 1 GPU) with 16 CPUs and 1 GPU, "
            "of which 1 CPU and 0 GPUs are free.",
        ),
    ],
)
def test_a_cluster_is_told_with_its_nodes(
    monkeypatch: pytest.MonkeyPatch, nodes: Sequence[tuple[float, float]], words: str
) -> None:
    alive = [{"Alive": True, "Resources": {"CPU": cpus, "GPU": gpus}} for cpus, gpus in nodes]
    monkeypatch.setattr(ray, "nodes", lambda: [*alive, {"Alive": False, "Resources": {}}])
    total = {"CPU": sum(cpus for cpus, _ in nodes), "GPU": sum(gpus for _, gpus in nodes)}
    monkeypatch.setattr(ray, "cluster_resources", lambda: total)
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 1.0})
    assert cluster_in_words() == f"The cluster has {words}"
