"""Joins a cluster of two nodes as a job does, and asks the other one which files it sees. Started by a test."""

import json
import os
import sys
from pathlib import Path

import pipeline.distributed  # noqa: F401 (sets the switches of Ray before anything imports it)

from ray.cluster_utils import Cluster  # isort: skip

from pipeline.distributed.session import session
from pipeline.distributed.shared_storage import nodes_without
from pipeline.errors import ClusterError


def main(folder: Path) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    os.environ["RAY_ADDRESS"] = cluster.address
    with session(str(folder / "runs")):
        (folder / "there").touch()
        blind = {name: len(nodes_without(folder / name)) for name in ("there", "not there")}
    left = [path.name for path in (folder / "runs").iterdir()]
    print(json.dumps({"blind": blind, "left": left, "relative": refusal("runs")}))
    cluster.shutdown()


def refusal(runs: str) -> str:
    """Returns what a job with these runs is told."""
    try:
        with session(runs):
            return ""
    except ClusterError as error:
        return str(error)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
