"""Runs a pool on a cluster of two nodes and kills one of them; prints the results as JSON. Started by test_pool.py."""

import dataclasses
import json
import sys

import pipeline.distributed  # noqa: F401 (sets the switches of Ray before anything imports it)

import ray  # isort: skip
from ray.cluster_utils import Cluster  # isort: skip

from pipeline.distributed.pool import PoolFacts, RolloutPool
from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.recipe import Recipe
from pipeline.evaluation.rollout import EpisodeStart
from pipeline.records import EpisodeResult


def main(recipe: Recipe, starts: list[EpisodeStart]) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    node = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, logging_level="error")
    results: list[EpisodeResult] = []
    removed = []

    def lose_a_node(facts: PoolFacts) -> None:
        if facts.actors == 2 and len(results) >= 2 and not removed:
            removed.append(node)
            cluster.remove_node(node, allow_graceful=False)

    with RolloutPool(EvaluationConfig(), num_actors=2) as pool:
        facts = pool.run(recipe, starts, results.extend, lose_a_node)
    rows = [dataclasses.asdict(result) for result in results]
    print(json.dumps({"results": rows, "removed": len(removed), "lost_actors": facts.lost_actors}))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Recipe.model_validate_json(sys.argv[1]), [EpisodeStart(**start) for start in json.loads(sys.argv[2])])
