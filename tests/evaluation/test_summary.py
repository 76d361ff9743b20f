from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.data.manifest import SourceRecord
from pipeline.errors import EvaluationError, StorageError
from pipeline.evaluation.scores import ScoreReference, two_level_interval
from pipeline.evaluation.summary import (
    across_trainings,
    build_summary,
    choose_reference,
    read_summary,
    summarize,
    write_summary,
)
from pipeline.records import EpisodeResult
from tests.evaluation.tiny_run import tiny_manifest

Make = Callable[..., EpisodeResult]

REFERENCE = ScoreReference("by hand", random_return=0.0, expert_return=50.0)


def source(name: str, scores: tuple[float, float] | None) -> SourceRecord:
    return SourceRecord(name=name, episodes=1, steps=1, available_episodes=1, fingerprint="0", reference_scores=scores)


def test_a_method_s_entry_has_what_a_hand_computes(make_result: Make) -> None:
    results = [
        make_result(0, 10.0, decision_ms_median=1.0, success=True),
        make_result(1, 30.0, decision_ms_median=3.0, success=False),
        make_result(2, 20.0, decision_ms_median=5.0, success=True),
        make_result(3, 60.0, decision_ms_median=5.0, success=True),
    ]
    entry = summarize("planner", results, REFERENCE)
    assert (entry["mean_return"], entry["median_return"], entry["iqm_return"]) == (30.0, 25.0, 25.0)
    assert (entry["normalized_score"], entry["decision_ms"], entry["success_rate"]) == (60.0, 4.0, 0.75)
    assert (entry["episodes"], entry["failed"], entry["predicted_return"]) == (4, 0, 24.0)
    low, high = entry["interval"]
    assert 10.0 <= low < 30.0 < high <= 60.0
    assert entry["normalized_interval"] == [2 * low, 2 * high]


def test_failed_episodes_are_counted_and_in_no_mean(make_result: Make) -> None:
    entry = summarize("planner", [make_result(0, 10.0), make_result(1, 999.0, error="RuntimeError: no")], None)
    assert (entry["mean_return"], entry["episodes"], entry["failed"]) == (10.0, 1, 1)
    assert entry["interval"] is None
    assert entry["normalized_score"] is None


def test_a_method_without_predictions_has_null_not_nan(make_result: Make, tmp_path: Path) -> None:
    results = {"random": [make_result(0, 1.0, predicted_return=float("nan")), make_result(1, 2.0)]}
    summary = build_summary(results, tiny_manifest(), "Hopper-v5", REFERENCE, None)
    assert summary["methods"]["random"]["predicted_return"] is None
    write_summary(tmp_path / "summary.json", summary)
    assert read_summary(tmp_path / "summary.json") == summary


def test_the_data_s_entry_is_the_manifest_s(make_result: Make) -> None:
    summary = build_summary({"random": [make_result(0, 1.0)]}, tiny_manifest(), "Hopper-v5", REFERENCE, None)
    assert summary["data"] == {"mean_return": 15.0, "episodes": 2, "normalized_score": 30.0}
    assert summary["reference"] == {"name": "by hand", "random": 0.0, "expert": 50.0}
    assert summary["environment"] == "Hopper-v5"


def test_a_method_of_which_every_episode_failed_is_an_error(make_result: Make) -> None:
    with pytest.raises(EvaluationError, match=r"planner has 0 episodes .* of 1; .* failed with: RuntimeError: no"):
        summarize("planner", [make_result(0, 1.0, error="RuntimeError: no")], None)


def test_over_several_trainings_each_weighs_the_same(make_result: Make) -> None:
    groups = [[make_result(i, value) for i, value in enumerate(group)] for group in ([0.0, 10.0, 20.0], [40.0])]
    entry = across_trainings(groups, REFERENCE)
    assert (entry["mean_return"], entry["trainings"], entry["episodes"]) == (25.0, 2, 4)
    assert tuple(entry["interval"]) == two_level_interval([[0.0, 10.0, 20.0], [40.0]])
    assert entry["normalized_score"] == 50.0


def test_minari_s_reference_comes_before_d4rl_s_where_all_sources_agree() -> None:
    one = tiny_manifest(sources=(source("a", (1.0, 9.0)), source("b", (1.0, 9.0))))
    two = tiny_manifest(sources=(source("a", (1.0, 9.0)), source("b", None)))
    assert choose_reference("auto", "Hopper-v5", one) == ScoreReference("Minari metadata", 1.0, 9.0)
    assert choose_reference("d4rl", "Hopper-v5", one) == choose_reference("auto", "Hopper-v5", two)
    assert choose_reference("none", "Hopper-v5", one) is None
    assert choose_reference("auto", "InvertedPendulum-v5", two) is None


@pytest.mark.parametrize(
    ("kind", "message"),
    [("d4rl", "D4RL has none for Reacher-v5"), ("minari", r"the sources name \[None\]")],
)
def test_a_reference_asked_for_by_name_must_exist(kind: str, message: str) -> None:
    with pytest.raises(EvaluationError, match=f"evaluation.reference is '{kind}'; expected .*: {message}"):
        choose_reference(kind, "Reacher-v5", tiny_manifest())


def test_a_missing_summary_says_which_job_writes_it(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"summary.json is not readable .* Run jobs/evaluate.py first"):
        read_summary(tmp_path / "summary.json")
