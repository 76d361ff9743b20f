import pytest

from pipeline.distributed.worker_resources import WorkerResources, worker_resources
from pipeline.errors import ClusterError
from pipeline.workers import WorkersConfig


@pytest.mark.parametrize(
    ("settings", "cluster", "streams", "expected"),
    [
        ({}, {"CPU": 2.0}, False, WorkerResources(1, 2.0, 0.0)),
        ({}, {"CPU": 2.0}, True, WorkerResources(1, 1.0, 0.0)),
        ({}, {"CPU": 1.0}, True, WorkerResources(1, 0.5, 0.0)),
        ({"number": 2}, {"CPU": 2.0}, False, WorkerResources(2, 1.0, 0.0)),
        ({"number": 4}, {"CPU": 2.0}, False, WorkerResources(4, 0.5, 0.0)),
        ({"number": [1, 4]}, {"CPU": 16.0}, False, WorkerResources((1, 4), 4.0, 0.0)),
        ({"number": 2}, {"CPU": 16.0, "GPU": 2.0}, False, WorkerResources(2, 8.0, 1.0)),
        ({"number": 2, "gpus": 0}, {"CPU": 16.0, "GPU": 1.0}, False, WorkerResources(2, 8.0, 0.0)),
        ({"number": 2, "gpus": 0.5}, {"CPU": 16.0, "GPU": 1.0}, False, WorkerResources(2, 8.0, 0.5)),
        ({"number": [1, 2]}, {"CPU": 16.0, "GPU": 2.0}, False, WorkerResources((1, 2), 8.0, 1.0)),
        ({"gpus": 0}, {"CPU": 4.0, "GPU": 1.0}, False, WorkerResources(1, 4.0, 0.0)),
        ({"cpus": 1.5}, {"CPU": 4.0}, False, WorkerResources(1, 1.5, 0.0)),
    ],
)
def test_the_cluster_is_shared_out(
    settings: dict[str, object], cluster: dict[str, float], streams: bool, expected: WorkerResources
) -> None:
    config = WorkersConfig.model_validate(settings)
    assert worker_resources(config, [cluster], can_grow=False, streams=streams) == expected


@pytest.mark.parametrize(
    ("workers", "words"),
    [
        (1, "1 worker of 2 CPUs, 0.5 GPUs"),
        (3, "3 workers of 2 CPUs, 0.5 GPUs each"),
        ((1, 4), "1 to 4 workers of 2 CPUs, 0.5 GPUs each"),
    ],
)
def test_workers_are_told_in_words(workers: int | tuple[int, int], words: str) -> None:
    assert str(WorkerResources(workers, 2.0, 0.5)) == words


def test_what_does_not_fit_is_refused_where_nothing_can_grow() -> None:
    config = WorkersConfig(cpus=2, number=2)
    with pytest.raises(ClusterError, match=r"needs 4 CPUs, but this machine has 2; .*workers\.cpus"):
        worker_resources(config, [{"CPU": 2.0}], can_grow=False, streams=False)
    assert worker_resources(config, [{"CPU": 2.0}], can_grow=True, streams=False).cpus == 2
    with pytest.raises(ClusterError, match="needs 1 GPUs, but this machine has 0"):
        worker_resources(WorkersConfig(gpus=1), [{"CPU": 2.0}], can_grow=False, streams=False)
    with pytest.raises(ClusterError, match="needs 3 CPUs with one for reading, but"):
        worker_resources(WorkersConfig(cpus=2), [{"CPU": 2.0}], can_grow=False, streams=True)
    elastic = WorkersConfig(cpus=1, number=(1, 2))
    assert worker_resources(elastic, [{"CPU": 1.0}], can_grow=False, streams=False).cpus == 1
    with pytest.raises(ClusterError, match="needs 3 CPUs with one for reading"):
        worker_resources(elastic, [{"CPU": 2.0}], can_grow=False, streams=True)


@pytest.mark.parametrize(
    ("workers", "gpus", "share", "most"),
    [(2, 1.0, "0.5", 1), (4, 3.0, "0.5", 3), (5, 2.0, "0.33", 2), (6, 1.0, "0.16", 1)],
)
def test_too_few_gpus_are_no_reason_to_train_on_the_cpu_without_a_word(
    workers: int, gpus: float, share: str, most: int
) -> None:
    told = (
        rf"workers\.gpus is null and workers\.number at least {workers}, but there are {gpus:g} GPUs; .*"
        rf"workers\.gpus to {share} .*, 0 .* or 1 .*workers\.number to {most} or less"
    )
    for can_grow in (False, True):
        with pytest.raises(ClusterError, match=told):
            worker_resources(WorkersConfig(number=workers), [{"CPU": 16.0, "GPU": gpus}], can_grow, streams=False)


@pytest.mark.parametrize(
    ("workers", "gpus", "shared"),
    [(1, 0.5, False), (2, 0.5, True), ((1, 2), 0.5, True), (2, 1.0, False), (2, 0.0, False)],
)
def test_workers_of_less_than_a_gpu_share_one(workers: int | tuple[int, int], gpus: float, shared: bool) -> None:
    assert WorkerResources(workers, 1.0, gpus).share_gpus is shared


HEAD, CPU_NODE, GPU_NODE = {"CPU": 0.0}, {"CPU": 32.0}, {"CPU": 16.0, "GPU": 1.0}


@pytest.mark.parametrize(
    ("settings", "nodes", "streams", "cpus"),
    [
        ({"gpus": 1}, [], False, 4),
        ({"gpus": 1}, [HEAD, CPU_NODE], False, 4),
        ({"gpus": 1}, [HEAD, CPU_NODE, GPU_NODE], False, 16),
        ({"gpus": 1}, [HEAD, GPU_NODE], True, 15),
        ({"gpus": 1, "number": 2}, [HEAD, GPU_NODE], False, 4),
        ({"number": 3}, [], True, 3),
        ({"number": 3}, [{"CPU": 1.0}], True, 0.5),
        ({"gpus": 1, "number": 2}, [HEAD, {"CPU": 2.0, "GPU": 1.0}], False, 2),
        ({"gpus": 0.5, "number": 2}, [HEAD, GPU_NODE], False, 8),
        ({"number": 3}, [{"CPU": 16.0}, {"CPU": 16.0}], False, 8),
        ({"number": 9}, [{"CPU": 4.0}, {"CPU": 3.0}], False, 3),
        ({"cpus": 20}, [HEAD], False, 20),
    ],
)
def test_a_worker_fits_on_one_node_of_a_cluster(
    settings: dict[str, object], nodes: list[dict[str, float]], streams: bool, cpus: float
) -> None:
    config = WorkersConfig.model_validate(settings)
    assert worker_resources(config, nodes, can_grow=True, streams=streams).cpus == cpus
