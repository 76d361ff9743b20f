from dataclasses import replace

import numpy as np
import pytest

from pipeline.data.returns import RewardTreatment
from pipeline.data.spaces import Spaces
from pipeline.data.summary import Summary, SummarySettings, merge, summarize_episodes
from pipeline.data.transitions import transition_table
from pipeline.errors import DataError
from tests.data.episodes import random_episodes

TREATMENT = RewardTreatment(discount=0.99)
SETTINGS = SummarySettings(Spaces.plain(3, 2), TREATMENT, drop_invalid=False, sample_share=1.0, seed=5)
EPISODES = random_episodes([7, 1, 30, 12, 4, 9])
PAIRS = [(number % 2, episode) for number, episode in enumerate(EPISODES)]


def test_a_summary_holds_what_numpy_finds_in_the_whole_table() -> None:
    summary = summarize_episodes(PAIRS, SETTINGS)
    table = np.concatenate([transition_table(episode, TREATMENT) for episode in EPISODES])
    assert np.array_equal(summary.lowest, table.min(axis=0))
    assert np.array_equal(summary.highest, table.max(axis=0))
    assert np.allclose(summary.mean, table.mean(axis=0), rtol=1e-12)
    assert np.allclose(np.sqrt(summary.squares / len(table)), table.std(axis=0), rtol=1e-12)
    assert np.array_equal(summary.sample, table)
    assert summary.lengths.tolist() == [7, 1, 30, 12, 4, 9]
    assert summary.sources.tolist() == [0, 1, 0, 1, 0, 1]
    assert summary.returns.tolist() == [float(episode.rewards.sum()) for episode in EPISODES]
    assert summary.terminated.tolist() == [True, False] * 3
    assert summary.truncated.tolist() == [False, True] * 3


@pytest.mark.parametrize("borders", [[3], [1, 2, 3, 4, 5], [0, 6], [5]])
def test_merged_parts_are_the_whole(borders: list[int]) -> None:
    whole = summarize_episodes(PAIRS, SETTINGS)
    parts = [
        summarize_episodes(PAIRS[start:end], SETTINGS)
        for start, end in zip([0, *borders], [*borders, len(PAIRS)], strict=True)
    ]
    merged = merge(parts)
    for name, array in vars(whole).items():
        if array.dtype.kind == "f":
            # The moments are sums of floats in another order; everything else is exact.
            assert np.allclose(getattr(merged, name), array, rtol=1e-12), name
        else:
            assert np.array_equal(getattr(merged, name), array), name
    assert np.array_equal(merged.sample, whole.sample)


def test_a_sampled_step_does_not_depend_on_its_block() -> None:
    settings = replace(SETTINGS, sample_share=0.5)
    whole = summarize_episodes(PAIRS, settings)
    parts = merge([summarize_episodes([pair], settings) for pair in PAIRS])
    assert np.array_equal(parts.sample, whole.sample)
    assert 15 < len(whole.sample) < 48


def test_each_episode_draws_other_steps() -> None:
    steps = np.arange(101.0)[:, None] * np.ones(3)
    episodes = [replace(episode, observations=steps) for episode in random_episodes([100, 100])]
    summary = summarize_episodes([(0, episode) for episode in episodes], replace(SETTINGS, sample_share=0.5))
    border = np.flatnonzero(np.diff(summary.sample[:, 0]) < 0)[0] + 1
    first, second = summary.sample[:border, 0], summary.sample[border:, 0]
    assert 20 < len(np.intersect1d(first, second)) < min(len(first), len(second))


def test_another_seed_draws_another_sample() -> None:
    first = summarize_episodes(PAIRS, replace(SETTINGS, sample_share=0.5))
    second = summarize_episodes(PAIRS, replace(SETTINGS, sample_share=0.5, seed=6))
    assert first.sample.shape != second.sample.shape or not np.array_equal(first.sample, second.sample)


def test_a_summary_survives_its_bytes() -> None:
    summary = summarize_episodes(PAIRS, SETTINGS)
    again = Summary.from_bytes(summary.to_bytes())
    for name, array in vars(summary).items():
        assert np.array_equal(getattr(again, name), array), name


def _with_nan() -> list[tuple[int, object]]:
    rewards = EPISODES[2].rewards.copy()
    rewards[4] = np.nan
    return [*PAIRS[:2], (0, replace(EPISODES[2], rewards=rewards)), *PAIRS[3:]]


def test_an_episode_with_nan_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"Episode 2 of memory has 1 NaN .* rewards, the first at step 4; expected numbers"
    ):
        summarize_episodes(_with_nan(), SETTINGS)  # type: ignore[arg-type]


def test_an_episode_with_nan_is_dropped_and_counted_where_that_was_chosen() -> None:
    summary = summarize_episodes(_with_nan(), replace(SETTINGS, drop_invalid=True))  # type: ignore[arg-type]
    assert summary.ids.tolist() == [0, 1, 3, 4, 5]
    assert summary.invalid_ids.tolist() == [2]
    assert summary.invalid_sources.tolist() == [0]
    assert "1 NaN or infinite values in rewards" in summary.complaints[0]
    assert np.isfinite(summary.mean).all()


def _with_an_empty_one() -> list[tuple[int, object]]:
    empty = replace(EPISODES[2], observations=np.zeros((1, 3)), actions=np.zeros((0, 2)), rewards=np.zeros(0))
    return [*PAIRS[:2], (0, empty), *PAIRS[3:]]


def test_an_episode_without_steps_is_refused_or_dropped_as_other_invalid_ones() -> None:
    with pytest.raises(DataError, match=r"Episode 2 of memory has 0 steps; expected numbers, of at least 1 step"):
        summarize_episodes(_with_an_empty_one(), SETTINGS)  # type: ignore[arg-type]
    summary = summarize_episodes(_with_an_empty_one(), replace(SETTINGS, drop_invalid=True))  # type: ignore[arg-type]
    assert summary.ids.tolist() == [0, 1, 3, 4, 5]
    assert summary.complaints.tolist() == ["Episode 2 of memory has 0 steps"]
