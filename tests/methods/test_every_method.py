"""What holds for every method, whatever it learns: how it trains, goes on, is stored, and acts."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

import pipeline.training.control
from pipeline.acting import Policy
from pipeline.methods.checkpoint import load_checkpoint
from pipeline.methods.registry import METHODS
from pipeline.planning.config import PlanningConfig
from pipeline.training.checkpoint import last_checkpoint
from pipeline.training.metrics import read_metrics
from pipeline.training.objective import cost
from pipeline.training.step import TrainStep
from pipeline.training.windows import Windows
from pipeline.training.world import World
from tests.methods import tiny
from tests.methods.tiny import training_of
from tests.training.tasks import TRAINING, curve, run

PLANNING = PlanningConfig(beam_width=3, horizon=2, context_transitions=1)
EVERY = [(method, kind) for method in tiny.METHODS for kind in tiny.SPACES]

pytestmark = pytest.mark.parametrize(("method", "kind"), EVERY)


def policy_of(folder: Path, method: str, kind: str, num_slots: int) -> Policy:
    """A policy of an untrained model, whose weights are large enough to tell inputs apart."""
    training = training_of(folder, method, kind)
    torch.manual_seed(1)
    model = training.make_model().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    name = training.method.name
    rows = training.method.rows(name, training.settings, PLANNING, training.manifest)
    return training.method.make_policy(model, rows[0].acting, training.manifest, num_slots, "cpu")


def played(policy: Policy, slot: int, others: list[int], steps: int = 7) -> list[float]:
    """The actions of one episode in `slot`, beside episodes that begin and end meanwhile in `others`."""
    observations = np.random.default_rng(5).normal(size=(steps, 2))
    rng, actions = np.random.default_rng(slot), []
    policy.reset(slot, seed=11)
    for step in range(steps):
        running = [other for other in others if (step + other) % 3]
        for other in running:
            if step == 0 or (step + other) % 3 == 1:
                policy.reset(other, seed=int(rng.integers(99)))
        decisions = policy.act({slot: observations[step], **{other: rng.normal(size=2) for other in running}})
        actions.append(float(decisions[slot].action[0]))
        for acted, decision in decisions.items():
            policy.record(acted, decision.action, float(rng.normal()) if acted != slot else -0.5)
    return actions


def test_an_episode_is_the_same_to_the_bit_in_any_slot_beside_any_neighbours(
    tmp_path: Path, method: str, kind: str
) -> None:
    alone = played(policy_of(tmp_path, method, kind, 1), 0, [])
    assert len(set(alone)) > 1
    for slots, slot in ((3, 0), (3, 2), (10, 4)):
        policy = policy_of(tmp_path, method, kind, slots)
        assert played(policy, slot, [other for other in range(slots) if other != slot]) == alone


def test_actions_are_the_datas(tmp_path: Path, method: str, kind: str) -> None:
    actions = played(policy_of(tmp_path, method, kind, 1), 0, [], steps=20)
    if kind == "discrete":
        assert set(actions) <= {0.0, 1.0, 2.0}
    else:
        assert min(actions) >= -1
        assert max(actions) <= 1


def test_a_run_that_is_stopped_and_goes_on_has_the_same_curve_and_weights_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, kind: str
) -> None:
    monkeypatch.setattr(pipeline.training.control, "CONTROL_SECONDS", 0.0)  # asked at every step
    straight, broken = (training_of(tmp_path / name, method, kind) for name in ("straight", "broken"))
    run(straight)
    questions = itertools.count()
    run(broken, stop_requested=lambda: next(questions) >= 4)
    assert (last_checkpoint(broken.task.checkpoints) or Path()).name < (
        last_checkpoint(straight.task.checkpoints) or Path()
    ).name
    run(broken)
    assert curve(broken.task.metrics) == curve(straight.task.metrics)
    ours, theirs = (load_checkpoint(last_checkpoint(one.task.checkpoints) or Path()) for one in (broken, straight))
    assert ours.method is METHODS[method.partition(" ")[0]]
    for name, tensor in theirs.model.state_dict().items():
        assert torch.equal(ours.model.state_dict()[name], tensor), name


def test_it_learns_and_reports_every_measure(tmp_path: Path, method: str, kind: str) -> None:
    config = TRAINING.model_copy(update={"epochs": 8, "learning_rate": 1e-2})
    training = training_of(tmp_path, method, kind, config)
    run(training)
    epochs = [line for line in read_metrics(training.task.metrics) if line["kind"] == "epoch"]
    assert epochs[-1]["loss"] < 0.95 * epochs[0]["loss"]
    for measure in training.make_objective(torch.device("cpu")).measures:
        assert {measure, f"validation_{measure}"} <= epochs[-1].keys()


def test_what_its_settings_say_is_measured_is_and_has_a_better_side(tmp_path: Path, method: str, kind: str) -> None:
    training = training_of(tmp_path, method, kind)
    known = training.settings.measures
    assert training.measures[0] == known[0] == "loss"
    # Of the accuracy of discrete actions nothing can be said where they are numbers.
    conditional = {"accuracy_action"} if kind == "continuous" and "trajectory" not in method else set()
    assert set(known) - set(training.measures) == conditional
    for name in known:
        assert cost(name, 0.25) == (-0.25 if name.startswith("accuracy_") else 0.25)


def test_every_parameter_learns(tmp_path: Path, method: str, kind: str) -> None:
    training = training_of(tmp_path, method, kind)
    step = TrainStep(training.make_objective(torch.device("cpu")), TRAINING, World(), 0)
    windows = training.resident_windows("train", torch.device("cpu"))
    before = {name: parameter.clone() for name, parameter in step.model.named_parameters()}
    step(windows.gather(np.arange(windows.num_starts)), 0, 1e-3)
    unmoved = [name for name, parameter in step.model.named_parameters() if torch.equal(parameter, before[name])]
    assert unmoved == []


def test_what_lies_beyond_the_end_of_an_episode_changes_nothing(tmp_path: Path, method: str, kind: str) -> None:
    training = training_of(tmp_path, method, kind)
    objective = training.make_objective(torch.device("cpu"))
    objective.model.eval()
    windows = training.resident_windows("train", torch.device("cpu"))
    batch = windows.gather(np.arange(windows.num_starts))
    shuffled = {
        name: torch.where(batch.real.view(*batch.real.shape, *[1] * (column.dim() - 2)), column, column.flip(0))
        for name, column in batch.columns.items()
    }
    other = Windows(shuffled, batch.real, batch.terminated, batch.timesteps)
    assert training.window == 1 or not batch.real.all()
    for ours, theirs in zip(objective(objective.model, batch), objective(objective.model, other), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert objective.counted(batch) == objective.counted(other)


def test_micro_batches_have_the_loss_of_the_whole(tmp_path: Path, method: str, kind: str) -> None:
    training = training_of(tmp_path, method, kind)
    windows = training.resident_windows("train", torch.device("cpu"))
    sums, norms = [], []
    for parts in (1, 3):
        objective = training.make_objective(torch.device("cpu"))
        for module in objective.model.modules():
            if hasattr(module, "probability"):
                module.probability = 0.0
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.0
        step = TrainStep(objective, TRAINING.model_copy(update={"accumulation_steps": parts}), World(), 0)
        result = step(windows.gather(np.arange(16)), 0, 1e-3)
        sums.append(result.sums)
        norms.append(result.gradient_norm)
    torch.testing.assert_close(sums[0], sums[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(norms[0], norms[1], rtol=1e-4, atol=1e-5)
