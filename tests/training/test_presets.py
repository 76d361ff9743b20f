from pathlib import Path

import pytest

from pipeline.command_line import parse_experiment
from pipeline.models.trajectory_transformer import TrajectoryTransformer
from pipeline.tokens.layout import TransitionLayout

HOPPER = TransitionLayout.plain(observation_dim=11, action_dim=3, num_bins=100)
MODELS = Path(__file__).resolve().parents[2] / "configs" / "models"


@pytest.mark.parametrize(("name", "millions"), [("small", 0.31), ("paper", 1.23), ("large", 27.1)])
def test_a_preset_merges_over_another_file_and_has_its_size(tmp_path: Path, name: str, millions: float) -> None:
    (tmp_path / "base.yaml").write_text("seed: 3\nplanning: {context_transitions: 3}\ntraining: {log_steps: 7}\n")
    files = ["--config", str(tmp_path / "base.yaml"), "--config", str(MODELS / f"{name}.yaml")]
    experiment = parse_experiment(None, files)
    assert (experiment.seed, experiment.training.log_steps) == (3, 7)
    model = TrajectoryTransformer(experiment.model, HOPPER)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)


def test_the_papers_model_has_the_papers_blocks() -> None:
    model = TrajectoryTransformer(parse_experiment(None, ["--config", str(MODELS / "paper.yaml")]).model, HOPPER)
    assert sum(parameter.numel() for parameter in model.blocks.parameters()) / 1e6 == pytest.approx(0.79, rel=0.01)
