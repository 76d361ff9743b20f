from pathlib import Path

import pytest

from pipeline.benchmarks.prepare import PrepareBenchmark, run
from tests.data.episodes import random_episodes, write_minari

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


@pytest.mark.parametrize("made_of", ["random walks", "episodes"])
def test_the_pipelines_tokens_are_the_references(tmp_path: Path, made_of: str) -> None:
    source = str(write_minari(tmp_path, "test/data-v0", random_episodes([300, 200]))) if made_of == "episodes" else None
    result = run(PrepareBenchmark(steps=1500, workers=(1, 2), source=source))
    assert result["identical"]
    assert 1500 <= result["steps"] < 2000
    assert [entry["workers"] for entry in result["by_workers"]] == [1, 2]
    wanted = "benchmark steps workers identical seconds reference_seconds ratio bytes_per_step peak_worker_gib"
    assert set(wanted.split()) <= set(result)
