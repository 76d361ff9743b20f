"""How many actors a stage starts: as many as find room now, or as many as a cluster that grows makes room for."""

from collections import Counter
from collections.abc import Mapping

import ray

from pipeline.errors import ClusterError


def cpus_there() -> int:
    """Returns the CPUs of all nodes that are up, free or not."""
    return int(ray.cluster_resources().get("CPU", 0))


def actors_to_start(most: int | None, useful: int, can_grow: bool, cpus: int = 1, gpus: float = 0.0) -> int:
    """Returns how many actors to start; 0 where not even one finds room on a cluster that stays as it is.

    Args:
        most: The configured number, None where none is set.
        useful: How many get something to do, at least 1.
        can_grow: The cluster may start nodes. It does so for actors that find no room, so all that are useful are
            wanted, however small the cluster is now.
        cpus: Of an actor, at least 1.
        gpus: Of an actor.
    """
    if can_grow:
        return useful if most is None else min(most, useful)
    room = cpus_there() // cpus
    if gpus:
        room = min(room, int(ray.cluster_resources().get("GPU", 0) / gpus))
    if most is None or room == 0:
        return min(room, useful)
    # More than find room now: they wait until others end.
    return min(most, useful)


def no_room(seen: str, cpus: float, gpus: float, advice: str) -> ClusterError:
    """Returns the error of actors or tasks that find no room.

    Args:
        seen: What shows it, as the sentence's beginning.
        cpus: Of one of them.
        gpus: Of one of them.
        advice: What to do, a sentence.
    """
    return ClusterError(f"{seen}; expected room for {_amount(cpus, gpus)}. {cluster_in_words()} {advice}")


def cluster_in_words() -> str:
    """Returns what the cluster has and what of it is free, a sentence."""
    nodes = [_held(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    # What finds room on no single node does not find it on several.
    sizes = ", ".join(f"{count} of {size}" for size, count in Counter(nodes).items())
    words = "1 node" if len(nodes) == 1 else f"{len(nodes)} nodes ({sizes})"
    there, free = _held(ray.cluster_resources()), _held(ray.available_resources())
    return f"The cluster has {words} with {there}, of which {free} are free."


def _held(resources: Mapping[str, float]) -> str:
    return _amount(resources.get("CPU", 0), resources.get("GPU", 0))


def _amount(cpus: float, gpus: float) -> str:
    return f"{cpus:g} CPU{'s'[: cpus != 1]} and {gpus:g} GPU{'s'[: gpus != 1]}"
