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

    @property
    def of_one_worker(self) -> dict[str, float]:
        """Ray's names and amounts."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})


def worker_resources(config: TrainingConfig, cluster: Mapping[str, float], can_grow: bool) -> WorkerResources:
    """Returns the workers of `config` on a cluster.

    Args:
        config: What is wanted; None where the cluster decides.
        cluster: Ray's resources of all nodes, `CPU` and `GPU`.
        can_grow: The cluster may start nodes for what it has not; without it, what does not fit is refused.

    Raises:
        ClusterError: The fewest workers do not fit, and would be waited for without end.
    """
    least, most = (config.num_workers,) * 2 if isinstance(config.num_workers, int) else config.num_workers
    all_cpus, all_gpus = cluster.get("CPU", 0.0), cluster.get("GPU", 0.0)
    gpus = config.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if all_gpus >= least else 0.0
    cpus = config.cpus_per_worker
    if cpus is None:
        share = all_cpus / most
        # Whole CPUs where there are enough; halves and less where the workers are more than the CPUs.
        cpus = float(int(share)) if share >= 1 else share
    if not can_grow:
        _require("CPU", least * cpus, all_cpus, "training.cpus_per_worker")
        _require("GPU", least * gpus, all_gpus, "training.gpus_per_worker")
    return WorkerResources(config.num_workers, cpus, gpus)


def _require(kind: str, wanted: float, present: float, setting: str) -> None:
    if wanted > present:
        raise ClusterError(
            f"The workers need {wanted:g} {kind}s, but this machine has {present:g}; expected no more than that. "
            f"Lower training.num_workers or {setting}, or join a cluster with RAY_ADDRESS."
        )
