"""Small settings of every method, and data with continuous and with discrete actions to train them on."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.data.config import DataConfig
from pipeline.data.spaces import Spaces
from pipeline.methods.behaviour_cloning.config import BehaviourCloningConfig
from pipeline.methods.decision_transformer.config import DecisionTransformerConfig
from pipeline.methods.settings import MethodSettings
from pipeline.methods.training import MethodTraining
from pipeline.methods.trajectory_transformer.config import TrajectoryTransformerConfig
from pipeline.records import Episode
from pipeline.training.config import TrainingConfig
from tests.data.in_memory import write_shards
from tests.training.tasks import TRAINING, make_episodes, make_task

SMALL = {"layers": 1, "width": 16, "dropout": 0.1}

METHODS: dict[str, MethodSettings] = {
    "trajectory_transformer": TrajectoryTransformerConfig(heads=2, window_transitions=4, **SMALL),
    "decision_transformer": DecisionTransformerConfig(heads=2, context_steps=4, **SMALL),
    "behaviour_cloning": BehaviourCloningConfig(top_return_share=0.6, **SMALL),
    "behaviour_cloning transformer": BehaviourCloningConfig(
        architecture="transformer", heads=2, context_steps=4, **SMALL
    ),
}
"""By the method's name, and what else distinguishes them."""

CONTINUOUS = Spaces(
    observation_sizes=(2,), observation_columns=(0, 1), action_shape=(1,), action_low=(-1.0,), action_high=(1.0,)
)
DISCRETE = Spaces(observation_sizes=(2,), observation_columns=(0, 1), action_kind="discrete", action_choices=3)
SPACES = {"continuous": CONTINUOUS, "discrete": DISCRETE}


def episodes_of(kind: str) -> list[Episode]:
    """Episodes whose actions are numbers of -1 to 1, or which third of that they lie in."""
    episodes = make_episodes()
    if kind == "continuous":
        return episodes
    return [replace(one, actions=np.floor((one.actions + 1) * 1.5).clip(0, 2)) for one in episodes]


def training_of(
    folder: Path, method: str, kind: str = "continuous", training: TrainingConfig = TRAINING, **data: object
) -> MethodTraining:
    """A training of a method of METHODS on such episodes, in `folder`."""
    if not (folder / "shards").exists():
        config = DataConfig.model_validate({"num_bins": 10, "validation_share": 0.2, "steps_per_shard": 60, **data})
        write_shards(folder / "shards", episodes_of(kind), config, SPACES[kind])
    return make_task(folder, training, METHODS[method], method.partition(" ")[0])
