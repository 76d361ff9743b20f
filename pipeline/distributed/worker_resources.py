"""How many CPUs and GPUs each training worker gets: pure arithmetic, without Ray."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.errors import ClusterError
from pipeline.training.config import TrainingConfig


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
    def of_one_worker(self) -> dict[str, float]:
        """Ray's names and amounts."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})


READING_CPUS = 1
"""CPUs that stay free for Ray Data where it streams: without one, workers and readers wait for each other for ever."""


def worker_resources(
    config: TrainingConfig, cluster: Mapping[str, float], can_grow: bool, streams: bool
) -> WorkerResources:
    """Returns the workers of `config` on a cluster.

    Args:
        config: What is wanted; None where the cluster decides.
        cluster: Ray's resources of all nodes, `CPU` and `GPU`.
        can_grow: The cluster may start nodes for what it has not; without it, what does not fit is refused.
        streams: Ray Data reads while the workers train and needs a CPU of its own.

    Raises:
        ClusterError: The fewest workers do not fit, and would be waited for without end.
    """
    least, most = config.worker_range
    reading = READING_CPUS if streams else 0
    all_cpus, all_gpus = cluster.get("CPU", 0.0), cluster.get("GPU", 0.0)
    gpus = config.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if all_gpus >= least else 0.0
    cpus = config.cpus_per_worker
    if cpus is None:
        share = max(all_cpus - reading, all_cpus / 2) / most
        # Whole CPUs where there are enough; halves and less where the workers are more than the CPUs.
        cpus = float(int(share)) if share >= 1 else share
    if not can_grow:
        # On a machine of one CPU half of it is left for reading.
        _require("CPU", least * cpus + min(reading, all_cpus / 2), all_cpus, "training.cpus_per_worker")
        _require("GPU", least * gpus, all_gpus, "training.gpus_per_worker")
    return WorkerResources(config.num_workers, cpus, gpus)


def _require(kind: str, wanted: float, present: float, setting: str) -> None:
    if wanted > present:
        raise ClusterError(
            f"The training needs {wanted:g} {kind}s, but this machine has {present:g}; expected no more than that. "
            f"Lower training.num_workers or {setting}, or join a cluster with RAY_ADDRESS."
        )
