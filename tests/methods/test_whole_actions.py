"""Actions that are whole numbers: what every method learns of them, it does."""

from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import Box

from pipeline.acting import NearestActions
from pipeline.data.config import DataConfig
from pipeline.data.spaces import Spaces
from pipeline.methods.checkpoint import load_checkpoint
from pipeline.methods.registry import METHODS as REGISTRY
from pipeline.planning.config import PlanningConfig
from pipeline.records import Episode
from pipeline.training.checkpoint import last_checkpoint
from tests.data.in_memory import write_shards
from tests.methods.tiny import METHODS
from tests.training.tasks import TRAINING, make_task, run

SPACES = Spaces.of(Box(-1, 1, (1,), np.float64), Box(-2, 2, (1,), np.int32))
CHOICES = [-2, -1, 0, 1, 2]


def episodes() -> list[Episode]:
    """Episodes of random observations; the action is which fifth of -1 to 1 they lie in."""
    rng = np.random.default_rng(4)
    made = []
    for number in range(24):
        observations = rng.uniform(-1, 1, (21, 1))
        actions = np.floor((observations[:-1] + 1) * 2.5).clip(0, 4) - 2
        made.append(Episode("fifths", number, observations, actions, np.ones(20), False, True))
    return made


@pytest.mark.parametrize("method", ["trajectory_transformer", "decision_transformer", "behaviour_cloning"])
def test_every_method_does_every_whole_action_where_it_was_learnt(tmp_path: Path, method: str) -> None:
    data = DataConfig(num_bins=20, discretizer="uniform", validation_share=0.1)
    write_shards(tmp_path / "shards", episodes(), data, SPACES)
    config = TRAINING.model_copy(update={"epochs": 12, "learning_rate": 1e-2})
    run(training := make_task(tmp_path, config, METHODS[method], method))
    trained = load_checkpoint(last_checkpoint(training.task.checkpoints) or Path())
    planning = PlanningConfig(beam_width=32, horizon=1, context_transitions=1, ranking="log_likelihood")
    row = trained.method.rows(method, trained.settings, planning, trained.manifest)[0]
    policy = NearestActions(trained.method.make_policy(trained.model, row.acting, trained.manifest, 1, "cpu"), SPACES)
    done = dict.fromkeys(CHOICES, 0)
    for seed in range(4):
        policy.reset(0, seed)
        for choice in np.random.default_rng(seed).permutation(CHOICES):
            observation = np.array([choice / 2.5])
            action = policy.act({0: observation})[0].action
            policy.record(0, action, 1.0)
            done[choice] += int(SPACES.environment_action(action)[0] == choice)
    assert done == dict.fromkeys(CHOICES, 4)


@pytest.mark.parametrize("method", ["decision_transformer", "behaviour_cloning"])
def test_weights_that_learnt_fractions_mean_something_else_for_whole_numbers(tmp_path: Path, method: str) -> None:
    fractions = SPACES.model_copy(update={"action_dtype": "float32"})
    manifests = [
        write_shards(tmp_path / str(number), episodes(), DataConfig(store="values"), spaces)
        for number, spaces in enumerate((SPACES, fractions))
    ]
    whole, others = (REGISTRY[method].inputs(METHODS[method], manifest) for manifest in manifests)
    assert {name for name in whole if whole[name] != others[name]} == {"has_whole_actions"}
