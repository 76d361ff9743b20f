import pytest
import torch

from pipeline.benchmarks.train import TrainBenchmark, run
from pipeline.references.training import ReferenceStep

METHODS = ("trajectory_transformer", "decision_transformer", "behaviour_cloning")
SMALL = {"device": "cpu", "batch_size": 2, "repeats": 1, "steps": 1}


@pytest.mark.parametrize("method", METHODS)
def test_the_benchmark_checks_the_loss_and_reports_every_key(method: str) -> None:
    result = run(TrainBenchmark.model_validate({**SMALL, "precision": "float32", "method": method}))
    assert result["same_loss"] is True
    wanted = {"benchmark", "setting", "device", "tokens_per_second", "reference_tokens_per_second", "ratio"}
    assert wanted | {"utilisation", "peak_gib"} <= result.keys()
    assert (result["batch_size"], result["precision"], result["ratios"]) == (2, "float32", [result["ratio"]])


@pytest.mark.parametrize("method", METHODS)
def test_another_loss_than_the_references_is_told(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    plain = ReferenceStep.loss
    monkeypatch.setattr(ReferenceStep, "loss", lambda self, starts: 1.001 * plain(self, starts))
    assert run(TrainBenchmark.model_validate({**SMALL, "method": method}))["same_loss"] is False


def test_both_steps_get_the_same_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    plain = ReferenceStep.__call__
    monkeypatch.setattr(
        ReferenceStep, "__call__", lambda self, starts: seen.append(list(starts)) or plain(self, starts)
    )
    monkeypatch.setattr(
        "pipeline.benchmarks.train._Task.ours", lambda task: lambda starts: seen.append(list(starts)) or torch.zeros(())
    )
    run(TrainBenchmark(**SMALL | {"repeats": 2}))
    ours, theirs = seen[2::2], seen[3::2]
    assert len(ours) == 2
    assert ours == theirs
    assert ours[0] != ours[1]
