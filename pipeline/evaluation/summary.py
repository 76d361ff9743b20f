"""`summary.json`: what a run's evaluation gave, for programs and for the report.

Built from the episode results alone, so it can be made again at any time. Numbers that do not exist are null.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.configuration import write_text_atomically
from pipeline.data.manifest import Manifest
from pipeline.errors import EvaluationError, StorageError
from pipeline.evaluation.scores import (
    ScoreReference,
    bootstrap_interval,
    d4rl_reference,
    interquartile_mean,
    two_level_interval,
    wilson_interval,
)
from pipeline.records import EpisodeResult
from pipeline.stored import read_bytes, sealed, unsealed


def build_summary(
    methods: Mapping[str, Sequence[EpisodeResult]],
    manifest: Manifest,
    environment_id: str,
    reference: ScoreReference | None,
    checkpoint: Path | None,
) -> dict[str, Any]:
    """Returns the content of `summary.json`.

    Args:
        methods: Episodes of each row of the table, at least one each.
        manifest: Of the data that the model was trained on.
        environment_id: Gymnasium id.
        reference: What normalised scores refer to, None for none.
        checkpoint: Folder of the model, None where no method was run with one.

    Raises:
        EvaluationError: Every episode of a method failed.
    """
    mean, episodes = manifest.statistics.mean_return, sum(source.episodes for source in manifest.statistics.returns)
    return {
        "environment": environment_id,
        "checkpoint": None if checkpoint is None else str(checkpoint),
        "reference": None
        if reference is None
        else {"name": reference.name, "random": reference.random_return, "expert": reference.expert_return},
        "data": {
            "mean_return": mean,
            "episodes": episodes,
            "normalized_score": reference.normalized(mean) if reference else None,
        },
        "methods": {name: summarize(name, results, reference) for name, results in methods.items()},
    }


def summarize(method: str, results: Sequence[EpisodeResult], reference: ScoreReference | None) -> dict[str, Any]:
    """Returns the entry of one row.

    Episodes whose environment raised are counted as `failed` and are in no other number.

    Raises:
        EvaluationError: Every episode failed; the message has the first one's error.
    """
    ended = ended_episodes(method, results)
    returns = np.array([result.total_reward for result in ended])
    interval = bootstrap_interval(returns)
    successes = [result.success for result in ended if result.success is not None]
    return {
        "mean_return": float(returns.mean()),
        "interval": _listed(interval),
        "median_return": float(np.median(returns)),
        "iqm_return": float(interquartile_mean(returns)),
        "iqm_interval": _listed(bootstrap_interval(returns, interquartile_mean)),
        "normalized_score": reference.normalized(float(returns.mean())) if reference else None,
        "normalized_interval": [reference.normalized(end) for end in interval] if reference and interval else None,
        "success_rate": float(np.mean(successes)) if successes else None,
        "success_interval": _listed(wilson_interval(sum(successes), len(successes))),
        "episodes": len(ended),
        "failed": len(results) - len(ended),
        "mean_length": float(np.mean([result.length for result in ended])),
        "predicted_return": _number(np.mean([result.predicted_return for result in ended])),
        "discounted_return": _number(np.mean([result.discounted_return for result in ended])),
        "decision_ms": float(np.median([result.decision_ms_median for result in ended])),
        "decision_ms_p99": float(np.median([result.decision_ms_p99 for result in ended])),
        "batch_size": ended[0].batch_size,
    }


def ended_episodes(method: str, results: Sequence[EpisodeResult]) -> list[EpisodeResult]:
    """Returns the episodes whose environment did not raise, at least one.

    Raises:
        EvaluationError: Every episode failed; the message has the first one's error.
    """
    ended = [result for result in results if not result.error]
    if not ended:
        error = results[0].error if results else "there are no episodes"
        raise EvaluationError(
            f"{method} has {len(ended)} episodes that ended of {len(results)}; expected at least 1. The first failed "
            f"with: {error}. Put the environment right, remove the row's folder of episodes, and run again."
        )
    return ended


def across_trainings(groups: Sequence[Sequence[EpisodeResult]], reference: ScoreReference | None) -> dict[str, Any]:
    """Returns mean and interval of one method over several training seeds, each with its own episodes.

    The mean is that of the trainings' means; the interval resamples trainings and episodes (two_level_interval).

    Args:
        groups: Episodes of each training, at least one that did not fail.
        reference: As in build_summary.
    """
    returns = [[result.total_reward for result in group if not result.error] for group in groups]
    mean = float(np.mean([np.mean(group) for group in returns]))
    interval = two_level_interval(returns)
    return {
        "mean_return": mean,
        "interval": _listed(interval),
        "normalized_score": reference.normalized(mean) if reference else None,
        "normalized_interval": [reference.normalized(end) for end in interval] if reference and interval else None,
        "trainings": len(returns),
        "episodes": sum(len(group) for group in returns),
    }


def choose_reference(kind: str, environment_id: str, manifest: Manifest) -> ScoreReference | None:
    """Returns the reference that `evaluation.reference` asks for.

    Args:
        kind: `d4rl`, `minari`, `none`, or `auto`: Minari's where all sources name the same one, else D4RL's, else none.
        environment_id: Gymnasium id.
        manifest: Has the sources' Minari metadata.

    Raises:
        EvaluationError: The reference was asked for by name and does not exist.
    """
    scores = {source.reference_scores for source in manifest.sources}
    only = next(iter(scores)) if len(scores) == 1 else None
    minari = ScoreReference("Minari metadata", *only) if only and only[0] != only[1] else None
    d4rl = d4rl_reference(environment_id)
    found = {"d4rl": d4rl, "minari": minari, "auto": minari or d4rl, "none": None}[kind]
    if found is None and kind in ("d4rl", "minari"):
        why = f"D4RL has none for {environment_id}" if kind == "d4rl" else f"the sources name {sorted(scores, key=str)}"
        raise EvaluationError(
            f"evaluation.reference is {kind!r}; expected a reference that exists: {why}. Choose auto or none."
        )
    return found


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """Writes `summary.json`, whole or not at all."""
    write_text_atomically(path, sealed(summary))


def read_summary(path: Path) -> dict[str, Any]:
    """Returns the content of `summary.json`.

    Raises:
        StorageError: It is missing or not JSON.
    """
    try:
        return unsealed(read_bytes(path))
    except (OSError, ValueError) as error:
        raise StorageError(
            f"{path} is not readable ({error}); expected a run's summary. Run jobs/evaluate.py first."
        ) from error


def _listed(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _number(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)
