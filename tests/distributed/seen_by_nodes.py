"""Joins a cluster of two nodes as a job does, and asks a task on the other one what it sees. Started by a test."""

import json
import os
import sys
from pathlib import Path

import pipeline.distributed  # noqa: F401 (sets the switches of Ray before anything imports it)

import ray  # isort: skip
from ray.cluster_utils import Cluster  # isort: skip

from pipeline.distributed.session import session
from pipeline.distributed.shared_storage import require_shared
from pipeline.errors import StorageError


def main(runs: Path) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    os.environ["RAY_ADDRESS"] = cluster.address
    with session(str(runs)):
        there = told()
        for probe in runs.iterdir():
            probe.unlink()
        gone = told()
    print(json.dumps({"there": there, "gone": gone, "left": [path.name for path in runs.iterdir()]}))
    cluster.shutdown()


def told() -> str:
    """Returns what a task on the node with a CPU says."""
    try:
        ray.get(ray.remote(require_shared).remote(), timeout=60)
    except StorageError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    main(Path(sys.argv[1]))
