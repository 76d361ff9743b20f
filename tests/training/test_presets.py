from pathlib import Path

import pytest

from pipeline.command_line import parse_experiment
from pipeline.experiment import Experiment
from pipeline.models.trajectory_transformer import TrajectoryTransformer
from pipeline.tokens.layout import TransitionLayout
from pipeline.training.config import TrainingConfig
from pipeline.training.schedule import Schedule

HOPPER = TransitionLayout.plain(observation_dim=11, action_dim=3, num_bins=100)
MODELS = Path(__file__).resolve().parents[2] / "configs" / "models"


@pytest.mark.parametrize(("name", "millions"), [("small", 0.31), ("paper", 1.23), ("large", 27.1)])
def test_a_preset_merges_over_another_file_and_has_its_size(tmp_path: Path, name: str, millions: float) -> None:
    (tmp_path / "base.yaml").write_text("seed: 3\nplanning: {context_transitions: 3}\ntraining: {log_steps: 7}\n")
    files = ["--config", str(tmp_path / "base.yaml"), "--config", str(MODELS / f"{name}.yaml")]
    experiment = parse_experiment(None, files)
    assert (experiment.seed, experiment.training.log_steps) == (3, 7)
    model = TrajectoryTransformer(experiment.trajectory_transformer, HOPPER)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)


def preset(name: str) -> Experiment:
    return parse_experiment(None, ["--config", str(MODELS / f"{name}.yaml")])


def test_the_papers_schedule_is_that_of_the_released_code() -> None:
    experiment = preset("paper")
    config = experiment.training
    schedule = Schedule.of(config, num_starts=2_000_000, window_tokens=10 * 16 - 1)
    assert (config.epochs, config.batch_size, config.learning_rate) == (50, 256, 6e-4)
    assert (config.beta1, config.beta2, config.weight_decay, config.gradient_clip) == (0.9, 0.95, 0.1, 1.0)
    weights = experiment.trajectory_transformer.loss_weights
    assert weights.model_dump() == {"observation": 1, "action": 5, "reward": 1, "value": 1}
    assert schedule.tokens_per_epoch == pytest.approx(1e6 * 159, rel=1e-3)
    assert schedule.warmup_tokens == schedule.tokens_per_epoch
    assert schedule.decay_tokens == pytest.approx(20 * schedule.tokens_per_epoch, rel=1e-3)
    assert schedule.learning_rate(20 * schedule.steps_per_epoch) == pytest.approx(6e-5, rel=1e-3)
    assert schedule.learning_rate(schedule.total_steps - 1) == pytest.approx(6e-5)


@pytest.mark.parametrize(("name", "batch_size", "learning_rate"), [("small", 256, 1e-3), ("large", 512, 3e-4)])
def test_the_other_presets_have_a_training_of_their_own(name: str, batch_size: int, learning_rate: float) -> None:
    config = preset(name).training
    assert (config.batch_size, config.learning_rate) == (batch_size, learning_rate)
    # Everything else stays as another file, or the defaults, have it.
    assert config == TrainingConfig(batch_size=batch_size, learning_rate=learning_rate)


def test_the_papers_model_has_the_papers_blocks() -> None:
    model = TrajectoryTransformer(preset("paper").trajectory_transformer, HOPPER)
    assert sum(parameter.numel() for parameter in model.blocks.parameters()) / 1e6 == pytest.approx(0.79, rel=0.01)
