import json

import pytest

from pipeline.benchmarks.evaluate import EvaluateBenchmark, run


@pytest.mark.ray
@pytest.mark.slow
def test_the_shares_add_up_and_the_result_is_json_with_the_promised_keys(ray_session: None) -> None:
    options = EvaluateBenchmark(beam_width=2, horizon=1, steps=3, episodes_per_actor=1, batch_size=2)
    result = json.loads(json.dumps(run(options)))
    shares = [result[f"{part}_share"] for part in ("planning", "environment", "overhead")]
    assert sum(shares) == pytest.approx(1.0)
    assert all(0.0 < share < 1.0 for share in shares)
    assert [entry["actors"] for entry in result["measurements"]] == [1, 2]
    assert (result["benchmark"], result["actors"]) == ("evaluate", 2)
    rates = [entry["steps_per_second"] for entry in result["measurements"]]
    assert result["speedup"] == pytest.approx(rates[1] / rates[0])
