import pytest

from pipeline.benchmarks.act import run
from pipeline.benchmarks.options import ActBenchmark


@pytest.mark.parametrize("method", ["decision_transformer", "behaviour_cloning"])
def test_the_benchmark_times_decisions_for_all_slots(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    asked: list[int] = []
    name = "sequence.SequencePolicy" if method == "decision_transformer" else "behaviour_cloning.policy.ReactivePolicy"
    module, _, policy = f"pipeline.methods.{name}".rpartition(".")
    act = getattr(__import__(module, fromlist=[policy]), policy).act
    monkeypatch.setattr(f"{module}.{policy}.act", lambda self, given: asked.append(len(given)) or act(self, given))
    result = run(ActBenchmark.model_validate({"method": method, "slots": 3, "warm_up": 1, "steps": 2}))
    assert asked == [3, 3, 3]
    assert {"benchmark", "method", "setting", "device", "slots"} <= result.keys()
    assert 0 < result["decision_ms"] <= result["decision_ms_p90"]
