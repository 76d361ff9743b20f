"""How many actors a stage starts: as many as find room now, or as many as a cluster that grows makes room for."""

import ray


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
    resources = ray.cluster_resources()
    room = int(resources.get("CPU", 0) // cpus)
    if gpus:
        room = min(room, int(resources.get("GPU", 0) / gpus))
    if most is None or room == 0:
        return min(room, useful)
    # More than find room now: they wait until others end.
    return min(most, useful)
