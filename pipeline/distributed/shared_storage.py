"""Whether the other nodes of a cluster see the folder that this job writes to, asked before any work is done."""

import uuid
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.errors import ClusterError, StorageError

PROBE_SECONDS = 120.0
"""How long the nodes may take to answer; the first task on a node unpacks the job's working directory there."""


def require_shared(runs: str) -> None:
    """Checks that `--runs` is a folder that every node with CPUs sees, before a stage's tasks write there.

    Nodes that an autoscaler starts later are not asked.

    Args:
        runs: As configured.

    Raises:
        ClusterError: It is not absolute (a submitted job's relative paths lie in a copy that goes with the job), a node
            does not see what is written there, or does not answer within PROBE_SECONDS.
        StorageError: It cannot be written.
    """
    folder = Path(runs)
    if not folder.is_absolute():
        raise ClusterError(
            f"runs is {runs!r}; expected the absolute path of a folder on storage that all nodes of the cluster share: "
            "relative to a submitted job it would be gone with it. Mount such storage and give --runs /its/path."
        )
    probe = folder / f".probe-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
    except OSError as error:
        raise StorageError(f"runs is {runs!r}; expected a folder that can be written ({error}).") from error
    try:
        blind = nodes_without(probe)
    finally:
        probe.unlink()
    if blind:
        raise ClusterError(
            f"runs is {runs!r}; expected storage that all nodes of the cluster share, but {', '.join(blind)} did not "
            "see a file that this job wrote there. Mount the same storage on every node and give its path as --runs."
        )


def nodes_without(path: Path) -> list[str]:
    """Returns the addresses of the other nodes that do not see `path`; nodes without CPUs get no work and do not count.

    Raises:
        ClusterError: A node did not answer within PROBE_SECONDS.
    """
    own = ray.get_runtime_context().get_node_id()
    others = [
        node for node in ray.nodes() if node["Alive"] and node["NodeID"] != own and node["Resources"].get("CPU", 0) > 0
    ]
    probe = ray.remote(num_cpus=0, max_retries=0)(_exists)
    strategies = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in others]
    answers = [probe.options(scheduling_strategy=strategy).remote(str(path)) for strategy in strategies]
    addresses = [str(node["NodeManagerAddress"]) for node in others]
    try:
        seen = ray.get(answers, timeout=PROBE_SECONDS)
    except ray.exceptions.RayError as error:
        raise ClusterError(
            f"the nodes {', '.join(addresses)} were asked whether they see {path.parent}; expected answers within "
            f"{PROBE_SECONDS:g} s ({type(error).__name__}: {str(error).strip().partition(chr(10))[0]}). Look at the "
            "nodes with `ray status`, then run the same command again."
        ) from error
    return [address for address, sees in zip(addresses, seen, strict=True) if not sees]


def _exists(path: str) -> bool:
    return Path(path).exists()
