"""A small run folder as the stages leave it, made without running any of them."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from pipeline.configuration import claim_folder
from pipeline.data.manifest import Manifest, SourceRecord, Totals, write_manifest
from pipeline.data.returns import RewardTreatment
from pipeline.data.shards import ShardSettings, write_shard
from pipeline.data.spaces import Spaces
from pipeline.data.statistics import DimensionStatistics, ReturnStatistics, Statistics
from pipeline.data.storage import Folder
from pipeline.evaluation.config import SweepConfig
from pipeline.evaluation.plan_trace import NAME, PlanTrace, write_trace
from pipeline.evaluation.results import EpisodeStore
from pipeline.evaluation.scores import ScoreReference
from pipeline.evaluation.subject import model_sums
from pipeline.evaluation.summary import build_summary, write_summary
from pipeline.evaluation.sweep import listed_settings, sweep_table, write_table
from pipeline.experiment import Experiment
from pipeline.models.trajectory_transformer import TrajectoryTransformer
from pipeline.records import Episode, EpisodeResult
from pipeline.run_folder import RunFolder
from pipeline.tokens.discretizer import Discretizer
from pipeline.tokens.layout import TransitionLayout
from pipeline.training.checkpoint import CheckpointInfo, list_checkpoints, write_checkpoint

SOURCE = "own/pendulum/mixed-v0"
LAYOUT = TransitionLayout.plain(observation_dim=3, action_dim=1, num_bins=20)
TRAINED_ON = {"processor": "a processor of elsewhere, 64 cores", "workers": "3", "commit": "0123456789ab"}
METHODS = {"random": 5.0, "one_step": 60.0, "trajectory_transformer": 190.0}


@dataclass(frozen=True)
class MadeRun:
    """A run folder and the experiment that it is of."""

    folder: RunFolder
    experiment: Experiment


def make_empty_run(root: Path) -> MadeRun:
    """A run folder in which no stage has run."""
    model = {"layers": 3, "heads": 2, "width": 16, "window_transitions": 6}
    experiment = Experiment.model_validate(
        {
            "name": "made",
            "environment": {"id": "Pendulum-v1", "max_episode_steps": 40},
            "trajectory_transformer": model,
            "planning": {"context_transitions": 2, "horizon": 3, "beam_width": 4},
        }
    )
    folder = RunFolder(root / "runs" / "made")
    folder.root.mkdir(parents=True)
    folder.config.write_text(yaml.safe_dump(experiment.model_dump(mode="json")))
    return MadeRun(folder, experiment)


def make_run(root: Path) -> MadeRun:
    """A run folder in which prepare, train and evaluate are done."""
    run = make_empty_run(root)
    manifest = write_shards(run.folder)
    write_training(run, manifest)
    write_evaluation(run.folder, manifest, METHODS)
    return run


def behaviour(number: int) -> Episode:
    """An episode of a swinging observation, from which a model could learn something."""
    steps = 10 + number
    time = np.arange(steps + 1) * 0.3 + number
    observations = np.column_stack([np.cos(time), np.sin(time), np.full(steps + 1, 0.1 * number)])
    return Episode(SOURCE, number, observations, np.sin(time[:-1, None]), np.cos(time[:-1]), True, False)


def write_shards(folder: RunFolder) -> Manifest:
    episodes = [behaviour(number) for number in range(12)]
    edges = np.tile(np.linspace(-2.0, 2.0, LAYOUT.num_bins + 1), (LAYOUT.transition_dim, 1))
    discretizer = Discretizer(LAYOUT, edges)
    treatment = RewardTreatment(discount=0.99)
    settings = ShardSettings(discretizer, treatment, store="both", steps_per_row=1000)
    split = [(episode, "validation" if episode.episode_id > 9 else "train") for episode in episodes]
    shard = write_shard(Folder(str(folder.shards)), 0, split, settings)
    lengths = np.array([episode.num_steps for episode in episodes])
    manifest = Manifest(
        layout=LAYOUT,
        edges=tuple(map(tuple, discretizer.edges)),
        centers=tuple(map(tuple, discretizer.centers)),
        discretizer_kind="uniform",
        spaces=Spaces.plain(LAYOUT.observation_dim, LAYOUT.action_dim),
        treatment=treatment,
        columns=settings.columns,
        seed=0,
        sources=(SourceRecord(name=SOURCE, episodes=12, steps=186, available_episodes=12, fingerprint="0"),),
        shards=(shard,),
        totals=Totals(episodes=12, validation_episodes=2, steps=int(lengths.sum()), validation_steps=41),
        statistics=statistics(episodes, lengths),
        versions={"numpy": "2.1.0", "pyarrow": "26.0.1"},
    )
    write_manifest(str(folder.shards), manifest)
    return manifest


def statistics(episodes: list[Episode], lengths: "np.ndarray") -> Statistics:
    returns = np.array([20.0 + 3 * episode.episode_id for episode in episodes])
    ends = np.ones(len(episodes), dtype=bool)
    source = ReturnStatistics.of(SOURCE, returns, lengths, ends, ~ends, dropped=1)
    names = (*LAYOUT.observation_names, "action[0]", "reward", "value")
    numbers = {"minimum": -1, "maximum": 1, "mean": 0, "deviation": 0.7, "distinct": 186, "bins": 20, "clipped": 0}
    dimensions = tuple(DimensionStatistics(name=name, **numbers) for name in names)
    return Statistics(returns=(source,), dimensions=dimensions, sampled_steps=186)


def add_checkpoint(run: MadeRun, manifest: Manifest, step: int, validation_loss: float) -> Path:
    model = TrajectoryTransformer(run.experiment.trajectory_transformer, LAYOUT)
    info = CheckpointInfo(step=step, epoch=step // 50, validation_loss=validation_loss, trained_on=TRAINED_ON)
    config = run.experiment.model_dump(mode="json")
    return write_checkpoint(run.folder.checkpoints, info, model.state_dict(), config, manifest.to_json(), None)


def write_training(run: MadeRun, manifest: Manifest) -> None:
    add_checkpoint(run, manifest, step=200, validation_loss=1.2)
    lines = [line for step in range(10, 201, 10) for line in metrics_at(step)]
    run.folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))


def metrics_at(step: int) -> list[dict[str, float | str | None]]:
    kinds = {"observation": 0.8, "action": 2.0, "reward": 0.4, "value": 1.5}
    losses = {kind: end + 2 * math.exp(-step / 60) for kind, end in kinds.items()}
    base = {"time": 0.0, "epoch": step // 50, "step": step, "tokens": step * 40_000, "loss": losses["action"] * 2}
    line = {"kind": "step", **base, **{f"loss_{kind}": loss for kind, loss in losses.items()}}
    if step % 50:
        return [line]
    validation = {f"validation_loss_{kind}": loss + 0.1 for kind, loss in losses.items()}
    return [line, {**line, "kind": "epoch", "validation_loss": losses["action"] * 2 + 0.3, **validation}]


def result(method: str, episode: int, total_reward: float, **changes: object) -> EpisodeResult:
    values = {
        "method": method,
        "episode": episode,
        "seed": 100 + episode,
        "total_reward": total_reward,
        "length": 50,
        "terminated": False,
        "truncated": True,
        "success": None,
        "predicted_return": 0.8 * total_reward,
        "decision_ms_median": 0.2 if method == "random" else 12.5,
        "decision_ms_p99": 0.5 if method == "random" else 31.0,
        "batch_size": 8,
        "attempts": 1,
        "host": "one",
        "discounted_return": 0.7 * total_reward,
    }
    return EpisodeResult(**{**values, **changes})


def write_evaluation(
    folder: RunFolder,
    manifest: Manifest,
    methods: dict[str, float],
    reference: ScoreReference | None = None,
    further: tuple[EpisodeResult, ...] = (),
) -> None:
    """20 episodes that swing around each method's mean, `further` ones, and their summary."""
    results = {}
    folders = list_checkpoints(folder.checkpoints)
    checkpoint = folders[-1] if folders else None
    for method, mean in methods.items():
        model = {} if method == "random" or checkpoint is None else {"model": model_sums(checkpoint)}
        claim_folder(folder.episodes(method), {"method": method, **model}, "episodes")
        returns = mean + 8 * np.sin(np.arange(20))
        results[method] = [result(method, i, float(value)) for i, value in enumerate(returns)]
        results[method] += [episode for episode in further if episode.method == method]
        EpisodeStore(folder.episodes(method)).add(results[method])
    if "trajectory_transformer" in methods:
        write_trace(folder.episodes("trajectory_transformer") / NAME, plan_trace)
    write_summary(folder.summary, build_summary(results, manifest, "Pendulum-v1", reference, checkpoint))


def plan_trace() -> PlanTrace:
    """A plan of three steps, two of which were made before the episode ended."""
    predicted = np.column_stack([np.arange(3.0), np.zeros(3), np.ones(3)])
    return PlanTrace(2, predicted, np.array([1.0, 1.5, 2.0]), predicted + 0.1, np.array([0.9, 1.4]))


def write_sweep(folder: RunFolder) -> None:
    """A sweep of beam width and horizon in which more of both is better and slower."""
    config = SweepConfig.model_validate(
        {"space": {"planning.beam_width": [8, 32, 128], "planning.horizon": [5, 10, 15]}}
    )
    entries = []
    for setting in listed_settings(config, root_seed=0):
        beam, horizon = setting.values()
        mean = 100 + 20 * math.log2(beam) - (horizon - 10) ** 2
        times = {"decision_ms_median": 0.05 * beam * horizon}
        entries.append((setting, [result("sweep", i, mean + i, **times) for i in range(config.episodes)]))
    folder.sweep.mkdir()
    write_table(folder.sweep, sweep_table(entries, config))
