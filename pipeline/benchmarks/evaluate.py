"""Times the evaluation pool: environment steps per second by number of actors, and where the time goes.

The model has random weights and the episodes all have the same length, so that nothing but the machinery differs
between two measurements. It measures the pool; how good the planner's own time is, the planner's benchmark tells.
"""

import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.benchmarks.manifest import manifest_without_data
from pipeline.benchmarks.options import EvaluateBenchmark
from pipeline.data.spaces import Spaces
from pipeline.distributed.pool import RolloutPool
from pipeline.distributed.session import session
from pipeline.environments import EnvironmentConfig, make_environment
from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.recipe import Recipe, row_recipe
from pipeline.evaluation.results import EpisodeStore
from pipeline.evaluation.rollout import episode_starts
from pipeline.methods.method import Row
from pipeline.methods.trajectory_transformer.config import TrajectoryTransformerConfig
from pipeline.models.trajectory_transformer import TrajectoryTransformer
from pipeline.planning.config import PlanningConfig
from pipeline.training.checkpoint import CheckpointInfo, write_checkpoint

METHOD = "trajectory_transformer"


@dataclass(frozen=True)
class Measurement:
    """One number of actors.

    Attributes:
        actors: Of one process each.
        steps_per_second: Environment steps of all actors together, per second of wall clock.
        planning_share: Share of the actors' time (wall clock times actors) that the policy took.
        environment_share: The same for making, resetting and stepping environments.
        overhead_share: The rest: Ray, bookkeeping, writing results, waiting for each other.
    """

    actors: int
    steps_per_second: float
    planning_share: float
    environment_share: float
    overhead_share: float


def run(options: EvaluateBenchmark) -> dict[str, Any]:
    """Returns the measurement with the most actors, its speed-up over the first one, and all measurements."""
    with tempfile.TemporaryDirectory() as folder, session():
        recipe = _recipe(options, Path(folder))
        measurements = [_measure(options, recipe, actors, Path(folder)) for actors in options.actors]
    speedup = measurements[-1].steps_per_second / measurements[0].steps_per_second
    return {
        "benchmark": "evaluate",
        **asdict(measurements[-1]),
        "speedup": speedup,
        "measurements": [asdict(measurement) for measurement in measurements],
    }


def _measure(options: EvaluateBenchmark, recipe: Recipe, actors: int, folder: Path) -> Measurement:
    config = EvaluationConfig(cpus_per_actor=options.cpus_per_actor, gpus_per_actor=options.gpus_per_actor)
    store = EpisodeStore(folder / f"{actors} actors")
    slots = actors * options.batch_size
    with RolloutPool(config, actors) as pool:
        # Processes, imports, the model and the planner's first call are over before the clock starts.
        pool.run(recipe, episode_starts(0, "warm-up", list(range(slots))), lambda _: None, lambda _: None)
        episodes = list(range(slots * options.episodes_per_actor))
        began = time.perf_counter()
        facts = pool.run(recipe, episode_starts(0, "benchmark", episodes), store.add, lambda _: None)
        available = actors * (time.perf_counter() - began)
    times = facts.times
    return Measurement(
        actors=actors,
        steps_per_second=times.steps / (available / actors),
        planning_share=times.policy / available,
        environment_share=times.environment / available,
        overhead_share=1 - (times.policy + times.environment) / available,
    )


def _recipe(options: EvaluateBenchmark, folder: Path) -> Recipe:
    """Returns a planner with random weights in a Hopper that never falls."""
    environment = EnvironmentConfig(
        id="Hopper-v5", max_episode_steps=options.steps, kwargs={"terminate_when_unhealthy": False}
    )
    made = make_environment(environment)
    spaces = Spaces.of(made.observation_space, made.action_space)
    made.close()
    settings, manifest = TrajectoryTransformerConfig(), manifest_without_data(spaces)
    torch.manual_seed(0)
    checkpoint = write_checkpoint(
        folder,
        CheckpointInfo(step=0, epoch=0, validation_loss=None),
        TrajectoryTransformer(settings, manifest.layout).state_dict(),
        {"method": METHOD, METHOD: settings.model_dump(mode="json")},
        manifest.to_json(),
        None,
    )
    planning = PlanningConfig(beam_width=options.beam_width, horizon=options.horizon)
    evaluation = EvaluationConfig(batch_size=options.batch_size, gpus_per_actor=options.gpus_per_actor)
    return row_recipe(Row(METHOD, planning), METHOD, environment, evaluation, manifest, checkpoint)
