"""How many CPUs and GPUs each training worker gets: pure arithmetic, without Ray."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import ClusterError
from pipeline.workers import WorkersConfig


@dataclass(frozen=True)
class WorkerResources:
    """What Ray Train is asked for.

    Attributes:
        num_workers: Workers, or the least and the most of them.
        cpus: CPUs of each; the torch threads of each are its whole CPUs, at least 1.
        gpus: GPUs of each.
    """

    num_workers: int | tuple[int, int]
    cpus: float
    gpus: float

    def __str__(self) -> str:
        """Words for people, for example `2 workers of 4 CPUs, 1 GPUs each`."""
        size = f"{self.cpus:g} CPUs, {self.gpus:g} GPUs"
        if self.num_workers == 1:
            return f"1 worker of {size}"
        workers = self.num_workers if isinstance(self.num_workers, int) else "{} to {}".format(*self.num_workers)
        return f"{workers} workers of {size} each"

    @property
    def share_gpus(self) -> bool:
        """Whether several workers may come to lie on one GPU, where nccl refuses to work."""
        most = self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]
        return 0 < self.gpus < 1 and most > 1

    @property
    def of_one_worker(self) -> dict[str, float]:
        """Ray's names and amounts."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})


READING_CPUS = 1
"""CPUs that stay free for Ray Data where it streams: without one, workers and readers wait for each other for ever."""
UNKNOWN_NODE_CPUS = 4.0
"""CPUs of a worker whose node is yet to be started: most machines have as many, and a GPU is kept busy by fewer."""

Node = Mapping[str, float]
"""Ray's resources of one node, `CPU` and `GPU`."""


def worker_resources(config: WorkersConfig, nodes: Sequence[Node], can_grow: bool, streams: bool) -> WorkerResources:
    """Returns the workers of `config` on a cluster.

    Args:
        config: What is wanted; None where the cluster decides.
        nodes: The nodes that are up.
        can_grow: The cluster may start nodes for what it has not; without it, what does not fit is refused.
        streams: Ray Data reads while the workers train and needs a CPU of its own.

    Raises:
        ClusterError: The workers do not fit, and they or their readers would be waited for without end; or there are
            GPUs but not for each of them, and nobody said what they are to do.
    """
    least, most = config.range
    all_cpus, all_gpus = (sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU"))
    reading = _reading_cpus(all_cpus, streams)
    gpus = config.gpus
    if gpus is None:
        gpus = _one_gpu_or_none(least, all_gpus)
    cpus = config.cpus
    if cpus is None:
        cpus = _whole_cpus(nodes, gpus, most, all_cpus - reading)
        if cpus is None:
            cpus = _cpus_of_started_node(nodes, gpus, streams) if can_grow else min(1.0, (all_cpus - reading) / most)
    elif not can_grow:
        # As many workers as find room are started, so where Ray Data reads there must be a CPU beside the most of them.
        wanted = (most if streams else least) * cpus + reading
        _require("CPU", wanted, all_cpus, "workers.cpus", " with one for reading" if streams else "")
    if not can_grow:
        _require("GPU", least * gpus, all_gpus, "workers.gpus")
    return WorkerResources(config.number, cpus, gpus)


def _one_gpu_or_none(workers: int, gpus: float) -> float:
    """Returns 1 where each worker finds a GPU, 0 where there is none at all."""
    if 0 < gpus < workers:
        # Rounded down: what rounding adds, the last worker on a GPU does not find there.
        share = 100 // -(-workers // gpus) / 100
        raise ClusterError(
            f"workers.gpus is null and workers.number at least {workers}, but there are {gpus:g} "
            f"GPUs; expected one for each worker, or none. Set workers.gpus to {share:g} (shared GPUs), "
            f"0 (the CPU) or 1 (a cluster that starts more), or workers.number to {int(gpus)} or less."
        )
    return 1.0 if gpus >= workers else 0.0


def _whole_cpus(nodes: Sequence[Node], gpus: float, workers: int, cpus: float) -> float | None:
    """Returns the most whole CPUs that each of `workers` finds on some node, of `cpus` in all; None where not one."""
    for share in range(int(cpus / workers), 0, -1):
        if sum(_room(node, share, gpus) for node in nodes) >= workers:
            return float(share)
    return None


def _room(node: Node, cpus: float, gpus: float) -> int:
    """Returns how many workers a node holds; one worker never lies on two nodes."""
    room = int(node.get("CPU", 0.0) / cpus)
    return min(room, int(node.get("GPU", 0.0) / gpus)) if gpus else room


def _cpus_of_started_node(nodes: Sequence[Node], gpus: float, streams: bool) -> float:
    """Returns the CPUs of a worker on a node like those that are up, of which there are not enough or none."""
    cpus = min([UNKNOWN_NODE_CPUS, *(node["CPU"] for node in nodes if _room(node, 1, gpus))])
    return cpus - _reading_cpus(cpus, streams)


def _reading_cpus(cpus: float, streams: bool) -> float:
    """Returns how many of `cpus` are left for reading: half of a single one."""
    return min(READING_CPUS, cpus / 2) if streams else 0.0


def _require(kind: str, wanted: float, present: float, setting: str, why: str = "") -> None:
    if wanted > present:
        raise ClusterError(
            f"The training needs {wanted:g} {kind}s{why}, but this machine has {present:g}; expected no more than that."
            f" Lower workers.number or {setting}, or join a cluster with RAY_ADDRESS."
        )
