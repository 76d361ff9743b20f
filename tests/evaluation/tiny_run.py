"""A run folder with an untrained model of the counting environment, made in milliseconds and without any stage."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pipeline.acting import RANDOM
from pipeline.data.manifest import Manifest, SourceRecord, Totals
from pipeline.data.returns import RewardTreatment
from pipeline.data.statistics import DimensionStatistics, ReturnStatistics, Statistics
from pipeline.evaluation.recipe import Recipe, random_recipe, row_recipe
from pipeline.experiment import Experiment
from pipeline.methods.registry import METHODS
from pipeline.run_folder import RunFolder
from pipeline.tokens.discretizer import Discretizer
from pipeline.tokens.layout import TransitionLayout
from pipeline.training.checkpoint import CheckpointInfo, write_checkpoint
from tests.evaluation.counting import ID, SPACES

LAYOUT = TransitionLayout.plain(observation_dim=2, action_dim=1, num_bins=12)

EXPERIMENT: dict[str, Any] = {
    "name": "tiny",
    "environment": {"id": ID, "max_episode_steps": 50},
    "trajectory_transformer": {"layers": 1, "heads": 1, "width": 8, "window_transitions": 4},
    "planning": {"beam_width": 4, "horizon": 2, "context_transitions": 1},
    "evaluation": {"episodes": 5, "batch_size": 3},
    "sweep": {"space": {"planning.beam_width": [2, 4], "planning.horizon": [1, 2]}, "episodes": 4},
}


TIMING_COLUMNS = ("decision_ms_median", "decision_ms_p99", "attempts", "host")
"""Columns that tell how a run went; all others are bit-equal whatever the cluster and whatever was lost."""


def episode_frame(folder: Path) -> pd.DataFrame:
    """The episodes of one row in order of their index, as pandas itself reads them."""
    return pd.read_parquet(folder).sort_values("episode", ignore_index=True)


def tiny_manifest(**changes: Any) -> Manifest:
    edges = np.tile(np.linspace(-1.0, 20.0, LAYOUT.num_bins + 1), (LAYOUT.transition_dim, 1))
    edges[LAYOUT.action] = np.linspace(-1.0, 1.0, LAYOUT.num_bins + 1)
    discretizer = Discretizer(LAYOUT, edges)
    returns, ends = np.array([10.0, 20.0]), np.ones(2, dtype=bool)
    numbers = {"minimum": -1, "maximum": 1, "mean": 0, "deviation": 1, "distinct": 12, "bins": 12, "clipped": 0}
    names = (*LAYOUT.observation_names, "action[0]", "reward", "value")
    values: dict[str, Any] = {
        "layout": LAYOUT,
        "edges": tuple(map(tuple, discretizer.edges)),
        "centers": tuple(map(tuple, discretizer.centers)),
        "discretizer_kind": "uniform",
        "spaces": SPACES,
        "treatment": RewardTreatment(discount=0.99),
        "columns": ("tokens", "observations", "actions", "rewards"),
        "seed": 0,
        "sources": (SourceRecord(name="counted", episodes=2, steps=9, available_episodes=2, fingerprint="0"),),
        "shards": (),
        "totals": Totals(episodes=2, validation_episodes=0, steps=9, validation_steps=0),
        "statistics": Statistics(
            returns=(ReturnStatistics.of("counted", returns, np.array([4, 5]), ends, ~ends, dropped=0),),
            dimensions=tuple(DimensionStatistics(name=name, **numbers) for name in names),
            sampled_steps=9,
        ),
        "versions": {},
    }
    return Manifest(**{**values, **changes})


def tiny_experiment(folder: Path, **sections: dict[str, Any]) -> Experiment:
    """The experiment, with some settings of some sections changed."""
    values = {**EXPERIMENT, "runs": str(folder)}
    for section, changes in sections.items():
        values[section] = {**values.get(section, {}), **changes}
    return Experiment.model_validate(values)


def write_tiny_checkpoint(run: RunFolder, experiment: Experiment, seed: int = 0, **recorded: Any) -> Path:
    """An untrained model; of the experiment that it records some parts may be changed."""
    torch.manual_seed(seed)
    model = METHODS[experiment.method].make_model(experiment.settings, tiny_manifest())
    config = experiment.model_dump(mode="json") | recorded
    info = CheckpointInfo(step=1, epoch=1, validation_loss=1.0)
    return write_checkpoint(run.checkpoints, info, model.state_dict(), config, tiny_manifest().to_json(), None)


def tiny_recipe(
    experiment: Experiment, checkpoint: Path, kind: str = "trajectory_transformer", **manifest: Any
) -> Recipe:
    """The recipe of one row of an untrained model, with some parts of the data's manifest changed."""
    parts = experiment.environment, experiment.evaluation, tiny_manifest(**manifest)
    if kind == RANDOM:
        return random_recipe(*parts)
    method = METHODS[experiment.method]
    (row,) = method.rows(kind, experiment.settings, experiment.planning, parts[2])
    return row_recipe(row, method.name, *parts, checkpoint)
