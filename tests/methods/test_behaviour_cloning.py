"""What behaviour cloning learns from, and what it sees."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.methods.behaviour_cloning.config import BehaviourCloningConfig
from pipeline.methods.registry import METHODS
from pipeline.planning.config import PlanningConfig
from tests.evaluation.tiny_run import tiny_manifest
from tests.methods import tiny
from tests.methods.tiny import training_of

METHOD = METHODS["behaviour_cloning"]


@pytest.mark.parametrize("share", [1.0, 0.5, 0.2, 1e-9])
def test_the_best_episodes_are_learnt_from_up_to_their_share_of_the_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    settings = BehaviourCloningConfig(top_return_share=share)
    monkeypatch.setitem(tiny.METHODS, "behaviour_cloning", settings)
    training = training_of(tmp_path, "behaviour_cloning")
    windows = training.resident_windows("train", torch.device("cpu"))
    everything = training.manifest.totals.steps - training.manifest.totals.validation_steps
    assert training.learnt_from.steps == windows.num_starts
    assert training.schedule.steps_per_epoch == -(-windows.num_starts // 16)
    if share == 1:
        assert windows.num_starts == everything
    elif share > 1e-3:
        assert share * everything - 25 < windows.num_starts <= share * everything
    else:  # the best episode alone, of at most 24 steps
        assert 0 < windows.num_starts < 25


@pytest.mark.parametrize(("share", "message"), [(0, "greater than 0"), (1.5, "less than or equal to 1")])
def test_a_share_of_nothing_or_more_than_all_is_refused(share: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BehaviourCloningConfig(top_return_share=share)


@pytest.mark.parametrize(("architecture", "window", "tokens"), [("mlp", 1, 1), ("transformer", 7, 14)])
def test_the_mlp_sees_one_step_and_the_transformer_its_context(architecture: str, window: int, tokens: int) -> None:
    settings = BehaviourCloningConfig.model_validate({"architecture": architecture, "context_steps": 7})
    assert METHOD.window(settings, tiny_manifest()) == window
    assert METHOD.window_tokens(settings, tiny_manifest()) == tokens


def test_nothing_of_it_can_be_swept_where_actions_are_continuous() -> None:
    swept = METHOD.swept(BehaviourCloningConfig(), PlanningConfig(), tiny_manifest())
    with pytest.raises(ConfigError, match="expected none: behaviour_cloning acts in one way only"):
        swept.check({"planning.horizon": [1]}, {})


def test_its_loss_is_the_mean_error_of_real_steps(tmp_path: Path) -> None:
    training = training_of(tmp_path, "behaviour_cloning transformer")
    windows = training.resident_windows("train", torch.device("cpu"))
    objective = training.make_objective(torch.device("cpu"))
    objective.model.eval()
    batch = windows.gather(np.arange(windows.num_starts))
    with torch.no_grad():
        predicted = objective.model(batch["observations"], batch["actions"], None, batch.timesteps)
        total, sums = objective(objective.model, batch)
    expected = ((predicted - batch["actions"])[batch.real] ** 2).mean().item()
    assert (total / objective.counted(batch)).item() == pytest.approx(expected, rel=1e-5)
    assert (sums[0, 0] / sums[0, 1]).item() == pytest.approx(expected, rel=1e-5)
    assert sums[0, 1] == batch.real.sum()
