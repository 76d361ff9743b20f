"""Our step against the reference step: the same windows, losses, gradients and updates."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.shards import read_table
from pipeline.data.table import TOKENS
from pipeline.methods.trajectory_transformer.config import LossWeights, TrajectoryTransformerConfig
from pipeline.methods.trajectory_transformer.objective import Targets, TokenObjective
from pipeline.models.trajectory_transformer import TrajectoryTransformer
from pipeline.references.training import ReferenceTransformer, reference_windows, token_step
from pipeline.tokens.layout import TransitionLayout
from pipeline.training.config import TrainingConfig
from pipeline.training.step import TrainStep, autocast_dtype
from pipeline.training.windows import ResidentWindows, Windows
from pipeline.training.world import World
from tests.one_device import META, OneDevice
from tests.training.tasks import make_task

WEIGHTS = LossWeights(observation=1, action=5, reward=2, value=0.5)
MODEL = TrajectoryTransformerConfig(
    layers=2, heads=2, width=16, window_transitions=4, dropout=0.0, loss_weights=WEIGHTS
)
CONFIG = TrainingConfig(batch_size=8, precision="float32")


def make_steps(tmp_path: Path, config: TrainingConfig = CONFIG, settings: TrajectoryTransformerConfig = MODEL):
    layout = make_task(tmp_path, config, settings).manifest.layout
    episodes = read_table(tmp_path / "shards", "train", [TOKENS])
    torch.manual_seed(3)
    model = TrajectoryTransformer(settings, layout)
    reference = ReferenceTransformer(settings, layout).copy_from(model)
    windows = ResidentWindows(episodes, settings.window_transitions, torch.device("cpu"))
    ours = TrainStep(TokenObjective(model, WEIGHTS), config, World(), 0)
    return ours, token_step(reference, episodes, 4, config, WEIGHTS), windows, episodes


def test_windows_are_those_that_are_gathered_row_by_row(tmp_path: Path) -> None:
    ours, _, windows, episodes = make_steps(tmp_path)
    starts, stop = np.arange(windows.num_starts), ours.model.layout.stop_token
    batch = windows.gather(starts)
    targets = Targets.of(batch, stop)
    tokens, counted = reference_windows(episodes, starts.tolist(), 4, stop)
    flat = tokens.reshape(len(tokens), -1)
    assert (targets.inputs.numpy() == flat[:, :-1]).all()
    assert (targets.targets.numpy() == flat[:, 1:]).all()
    assert (targets.counted.numpy() == counted.repeat(tokens.shape[2], axis=1)[:, 1:]).all()
    assert ours.objective.counted(batch) == targets.counted.sum()
    assert not counted.all()
    assert (tokens == stop).any()


@pytest.mark.parametrize("accumulation", [1, 3])
def test_steps_change_the_model_as_the_reference_does(tmp_path: Path, accumulation: int) -> None:
    ours, reference, windows, _ = make_steps(tmp_path, CONFIG.model_copy(update={"accumulation_steps": accumulation}))
    for step in range(3):
        starts = np.arange(step * 8, step * 8 + 8)
        batch = windows.gather(starts)
        weighted, _ = ours.objective(ours.model, batch)
        expected = reference(starts.tolist())
        assert (weighted / ours.objective.counted(batch)).item() == pytest.approx(expected, rel=1e-5)
        ours(windows.gather(starts), step, CONFIG.learning_rate)
    theirs = dict(reference.model.named_parameters())
    for name, parameter in (
        ("token_embedding.weight", ours.model.token_embedding.weight),
        ("head", ours.model.head.weight),
        ("blocks.1.contract.weight", ours.model.blocks[1].mlp.contract.weight),
        ("norm.bias", ours.model.norm.bias),
    ):
        # Adam divides small gradients by their size, so float32 noise of the gradients shows in the update.
        assert torch.allclose(parameter, theirs[name], atol=2e-5), name


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_step_reads_nothing_back_and_stays_on_its_device(monkeypatch, accumulation: int) -> None:
    # Fused AdamW has no kernel for tensors without data, and autocast no device.
    monkeypatch.setattr(
        "pipeline.training.step.make_optimizer", lambda model, config: torch.optim.SGD(model.parameters())
    )
    # What a step costs is read off the model's mask, once, before the first one.
    monkeypatch.setattr("pipeline.methods.trajectory_transformer.objective.flops_per_token", lambda model: 1.0)
    layout = TransitionLayout(2, 1, 5, (5, 3, 4, 5, 5), ("x", "y"))
    model = TrajectoryTransformer(MODEL.model_copy(update={"dropout": 0.1}), layout).to(META)
    config = CONFIG.model_copy(update={"accumulation_steps": accumulation})
    step = TrainStep(TokenObjective(model, WEIGHTS), config, World(device=META), 0)
    shape = 8, MODEL.window_transitions
    tokens = torch.zeros(*shape, 5, dtype=torch.uint8, device=META)
    real, terminated = (torch.ones(size, dtype=torch.bool, device=META) for size in (shape, 8))
    windows = Windows({TOKENS: tokens}, real, terminated, torch.zeros(shape, dtype=torch.int64, device=META))
    with OneDevice():
        result = step(windows, 0, 1e-3)
    assert result.gradient_norm.shape == ()
    assert result.sums.shape == (9, 2)


def test_every_parameter_learns(tmp_path: Path) -> None:
    ours, _, windows, _ = make_steps(tmp_path)
    before = {name: parameter.clone() for name, parameter in ours.model.named_parameters()}
    ours(windows.gather(np.arange(windows.num_starts)), 0, 1e-3)
    still = [name for name, parameter in ours.model.named_parameters() if torch.equal(parameter, before[name])]
    assert still == []


def test_dropout_depends_on_the_step_alone(tmp_path: Path) -> None:
    training = make_task(tmp_path)
    windows = make_steps(tmp_path)[2]
    norms = []
    for step in (4, 4, 5):
        train_step = TrainStep(training.make_objective(torch.device("cpu")), CONFIG, World(), 0)
        norms.append(train_step(windows.gather(np.arange(8)), step, 1e-3).gradient_norm.item())
    assert norms[0] == norms[1] != norms[2]


def test_evaluation_has_no_dropout_and_changes_nothing(tmp_path: Path) -> None:
    ours, _, windows, _ = make_steps(tmp_path, settings=MODEL.model_copy(update={"dropout": 0.1}))
    ours(windows.gather(np.arange(8)), 0, 1e-3)  # leaves the model in training mode
    before = {name: tensor.clone() for name, tensor in ours.model.state_dict().items()}
    first, second = (ours.evaluate(windows.gather(np.arange(8))) for _ in range(2))
    assert torch.equal(first, second)
    assert all(torch.equal(before[name], tensor) for name, tensor in ours.model.state_dict().items())


def test_what_is_reported_of_a_step_in_bfloat16_is_not_rounded_to_it(tmp_path: Path) -> None:
    """bfloat16 has 8 bits: it cannot hold a count of 257 or more."""
    ours, _, windows, _ = make_steps(tmp_path, CONFIG.model_copy(update={"precision": "bfloat16"}))
    batch = windows.gather(np.arange(windows.num_starts))
    for sums in (ours.evaluate(batch), ours(batch, 0, 1e-3).sums):
        assert sums.dtype is torch.float64
        assert sums[0, 1] == ours.objective.counted(batch) > 257


@pytest.mark.parametrize(
    ("precision", "abilities", "expected"),
    [
        ("auto", {"avx512_bf16": True}, torch.bfloat16),
        ("auto", {"avx512_bf16": False, "amx_bf16": True}, torch.bfloat16),
        ("auto", {"avx2": True}, None),
        ("float32", {"avx512_bf16": True}, None),
        ("bfloat16", {"avx2": True}, torch.bfloat16),
    ],
)
def test_a_processor_that_multiplies_bfloat16_trains_in_it(monkeypatch, precision, abilities, expected) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: abilities)
    assert autocast_dtype(TrainingConfig(precision=precision), torch.device("cpu")) is expected
    assert autocast_dtype(TrainingConfig(), torch.device("cuda")) is torch.bfloat16
