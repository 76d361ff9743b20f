"""Gives a cluster a coordinator that looks at its nodes every second, where Ray's own looks every 20.

Elastic training waits for it at each change of the cluster. It is started by test_train_nodes.py before any job, and
jobs take the one that is there.
"""

import sys

import pipeline.distributed  # noqa: F401 (sets the switches of Ray before anything imports it)

import ray  # isort: skip
from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator as coordinator  # isort: skip


class Quick(coordinator._AutoscalingCoordinatorActor):  # type: ignore[misc]
    TICK_INTERVAL_S = 1


if __name__ == "__main__":
    ray.init(address=sys.argv[1], logging_level="error")
    coordinator._AutoscalingCoordinatorActor = Quick
    ray.get(coordinator.get_or_create_autoscaling_coordinator().__ray_ready__.remote(), timeout=60)
