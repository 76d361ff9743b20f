from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from pipeline.data.config import DataConfig, SourceConfig
from pipeline.data.fit import Fit, fit_summary
from pipeline.data.plan import Preparation
from pipeline.data.shards import read_table
from pipeline.data.spaces import Spaces
from pipeline.data.statistics_table import statistics_notes, statistics_table
from pipeline.data.table import TOKENS
from pipeline.errors import ConfigError, DataError, ManifestError
from pipeline.records import Episode
from pipeline.references.prepare import reference_prepare
from tests.data.episodes import random_episodes, write_minari
from tests.data.in_memory import MemorySource, summary_of, write_shards


def with_nan(episode: Episode) -> Episode:
    observations = episode.observations.copy()
    observations[1, 2] = np.nan
    return replace(episode, observations=observations)


def test_tokens_and_edges_are_the_references(tmp_path: Path) -> None:
    episodes = random_episodes([20, 3, 40, 1, 25])
    # Ties, a constant, few values: the whole of what real columns do.
    for episode in episodes:
        episode.observations[:, 0] = np.round(episode.observations[:, 0])
        episode.observations[:, 1] = 2.5
        episode.actions[:, 0] = np.clip(2 * episode.actions[:, 0], -1, 1)  # times 2: still a float32
    folder = write_minari(tmp_path, "test/data-v0", episodes)
    reference = reference_prepare(folder / "data" / "main_data.hdf5", None, 12, 0.99)
    manifest = write_shards(tmp_path / "shards", episodes, DataConfig(num_bins=12, validation_share=0.0))
    assert np.array_equal(read_table(tmp_path / "shards", "train", [TOKENS])[TOKENS], reference.tokens)
    assert [list(row) for row in manifest.edges] == [row.tolist() for row in reference.edges]
    assert manifest.layout.bins[1] == 1


def test_the_block_size_changes_no_token(tmp_path: Path) -> None:
    episodes = random_episodes([20, 3, 40, 1, 25])
    tokens = []
    for steps in (1, 30, 1000):
        write_shards(tmp_path / str(steps), episodes, DataConfig(num_bins=12, steps_per_shard=steps))
        tokens.append(read_table(tmp_path / str(steps), "train", [TOKENS])[TOKENS])
    assert np.array_equal(tokens[0], tokens[1])
    assert np.array_equal(tokens[0], tokens[2])


def test_a_sample_gives_edges_within_the_stated_error() -> None:
    episodes = random_episodes([500] * 40)
    preparations = [
        Preparation.of(
            [(MemorySource(episodes), SourceConfig(id="x"))], DataConfig(num_bins=20, sample_numbers=7 * steps), 1
        )
        for steps in (20_000, 2_000)
    ]
    exact, sampled = (fit_summary(summary_of(entry), entry.config, entry.spaces) for entry in preparations)
    assert exact.sampled_steps == 20_000
    assert 1_800 < sampled.sampled_steps < 2_200
    values = np.sort(np.concatenate([episode.observations[:-1, 0] for episode in episodes]))
    ranks = np.searchsorted(values, sampled.discretizer.edges[0]) / len(values)
    # DKW: all ranks are off by at most sqrt(ln(2 / p) / 2n) with probability 1 - p; here p = 0.001.
    assert np.abs(ranks - np.linspace(0, 1, 21)).max() < np.sqrt(np.log(2000) / (2 * 1_800))
    # The outer edges are exact: nothing is clipped.
    assert sampled.discretizer.edges[0, [0, -1]].tolist() == [values[0], values[-1]]


def test_dropped_episodes_are_counted_and_the_others_stay(tmp_path: Path) -> None:
    episodes = random_episodes([5] * 10)
    episodes[3] = with_nan(episodes[3])
    manifest = write_shards(tmp_path, episodes, DataConfig(num_bins=5, on_invalid="drop", validation_share=0.0))
    (returns,) = manifest.statistics.returns
    assert (returns.episodes, returns.dropped_episodes, manifest.totals.steps) == (9, 1, 45)
    assert "Episode 3 of memory has 1 NaN" in manifest.statistics.invalid[0]
    assert "1 invalid episodes were left out" in statistics_notes(manifest.statistics)[0]


def test_episodes_whose_record_is_unusable_are_refused_or_dropped(tmp_path: Path) -> None:
    episodes = random_episodes([5] * 10)
    episodes[3] = Episode.unusable("memory", 3, "has 5 rewards, but 5 observations")
    with pytest.raises(
        DataError,
        match=r"Episode 3 of memory has 5 rewards, but 5 observations; expected .* Set data.on_invalid to drop",
    ):
        write_shards(tmp_path / "refused", episodes, DataConfig(num_bins=5))
    manifest = write_shards(tmp_path / "dropped", episodes, DataConfig(num_bins=5, on_invalid="drop"))
    assert (manifest.totals.episodes, manifest.totals.steps) == (9, 45)
    assert manifest.statistics.invalid == ("Episode 3 of memory has 5 rewards, but 5 observations",)


def test_nothing_but_invalid_episodes_is_refused(tmp_path: Path) -> None:
    episodes = [with_nan(episode) for episode in random_episodes([5] * 3)]
    with pytest.raises(
        DataError, match=r"all 3 episodes are invalid; expected at least one valid episode\. The first: .* NaN"
    ):
        write_shards(tmp_path, episodes, DataConfig(num_bins=5, on_invalid="drop"))


def test_the_statistics_are_those_of_the_data(tmp_path: Path) -> None:
    episodes = random_episodes([5, 10, 15, 20])
    for episode in episodes:
        episode.observations[:, 1] = np.sign(episode.observations[:, 1])
    manifest = write_shards(tmp_path, episodes, DataConfig(num_bins=5))
    (returns,) = manifest.statistics.returns
    totals = np.array([episode.rewards.sum() for episode in episodes])
    assert (returns.terminations, returns.truncations, returns.mean_length) == (2, 2, 12.5)
    assert returns.mean == pytest.approx(totals.mean())
    assert returns.quantiles[3] == pytest.approx(np.median(totals))
    assert sum(returns.histogram_counts) == 4
    names = [dimension.name for dimension in manifest.statistics.dimensions]
    assert names == ["observation[0]", "observation[1]", "observation[2]", "action[0]", "action[1]", "reward", "value"]
    flag = manifest.statistics.dimensions[1]
    assert (flag.minimum, flag.maximum, flag.distinct, flag.bins, flag.clipped) == (-1, 1, 2, 2, 0)
    assert manifest.statistics.few_values == ("observation[1]",)
    assert statistics_table(manifest.statistics).row_count == 1


def test_given_edges_are_taken_over_and_what_lies_outside_is_counted(tmp_path: Path) -> None:
    first = write_shards(tmp_path / "a", random_episodes([50] * 4), DataConfig(num_bins=5))
    wider = [replace(episode, rewards=100 * episode.rewards) for episode in random_episodes([50] * 4, seed=1)]
    second = write_shards(tmp_path / "b", wider, DataConfig(num_bins=9, discretizer_from=str(tmp_path / "a")))
    assert second.edges == first.edges
    assert second.discretizer_kind == "given"
    reward = next(dimension for dimension in second.statistics.dimensions if dimension.name == "reward")
    outside = np.concatenate([episode.rewards for episode in wider])
    assert reward.clipped == ((outside < first.edges[5][0]) | (outside > first.edges[5][-1])).sum() > 100
    assert "values lie outside the bin edges" in statistics_notes(second.statistics)[-1]


def test_given_edges_of_other_columns_are_refused(tmp_path: Path) -> None:
    write_shards(tmp_path / "a", random_episodes([50] * 4), DataConfig(num_bins=5))
    narrow = [replace(episode, observations=episode.observations[:, :2]) for episode in random_episodes([5] * 4)]
    with pytest.raises(
        ManifestError, match=r"discretizer_from is .* with 3 observation and 2 action columns; expected 2"
    ):
        write_shards(tmp_path / "b", narrow, DataConfig(discretizer_from=str(tmp_path / "a")))


def test_a_mixture_of_different_columns_is_refused() -> None:
    narrow = [replace(episode, observations=episode.observations[:, :2]) for episode in random_episodes([5] * 4)]
    sources = [MemorySource(random_episodes([5]), name="a"), MemorySource(narrow, name="b")]
    with pytest.raises(DataError, match=r"b has 2 observation and 2 action columns; expected 3 and 2 .* as a"):
        Preparation.of([(source, SourceConfig(id="x")) for source in sources], DataConfig(), 0)


@pytest.mark.parametrize(("bounds", "refused"), [((-2.0, 2.0), True), ((-1.0, 1.0), False), (None, False)])
def test_sources_whose_actions_have_other_bounds_are_not_mixed(
    bounds: tuple[float, float] | None, refused: bool
) -> None:
    """Networks scale actions by them; D4RL's files name none."""

    def source(name: str, ends: tuple[float, float] | None) -> MemorySource:
        low, high = ((ends[0],) * 2, (ends[1],) * 2) if ends else (None, None)
        spaces = Spaces.plain(3, 2).model_copy(update={"action_low": low, "action_high": high})
        return MemorySource(random_episodes([5]), spaces, name=name)

    sources = [(source(name, ends), SourceConfig(id="x")) for name, ends in (("a", (-1.0, 1.0)), ("b", bounds))]
    if not refused:
        Preparation.of(sources, DataConfig(), 0)
        return
    with pytest.raises(DataError, match=r"^b has actions between \(-2\.0, -2\.0\) .* of a, \(-1\.0, -1\.0\) and"):
        Preparation.of(sources, DataConfig(), 0)


def test_every_source_of_a_mixture_is_reported(tmp_path: Path) -> None:
    sources = [MemorySource(random_episodes([5] * 4, seed, name), name=name) for seed, name in enumerate("ab")]
    preparation = Preparation.of([(source, SourceConfig(id="x")) for source in sources], DataConfig(num_bins=5), 0)
    summary = summary_of(preparation)
    assert summary.sources.tolist() == [0] * 4 + [1] * 4
    assert len(preparation.index) == 8


def test_a_discrete_action_has_exactly_its_choices_as_bins(tmp_path: Path) -> None:
    episodes = [replace(episode, actions=np.zeros((episode.num_steps, 1))) for episode in random_episodes([5] * 4)]
    spaces = Spaces.plain(3, 1).model_copy(update={"action_kind": "discrete", "action_choices": 4})
    manifest = write_shards(tmp_path, episodes, DataConfig(num_bins=50), spaces)
    assert manifest.layout.bins[3] == 4


WHOLE = Spaces.of(Box(-9, 9, (3,)), Box(0, 20, (2,), np.int32))


def whole_episodes() -> list[Episode]:
    """Episodes whose actions are some of the whole numbers of 0 to 20, most of them small."""
    rng = np.random.default_rng(2)
    return [replace(one, actions=rng.binomial(20, 0.2, one.actions.shape) * 1.0) for one in random_episodes([50] * 4)]


@pytest.mark.parametrize("kind", ["quantile", "uniform"])
@pytest.mark.parametrize("num_bins", [21, 64, 100])
def test_every_whole_action_has_a_token_that_comes_back_as_it(tmp_path: Path, kind: str, num_bins: int) -> None:
    config = DataConfig.model_validate({"num_bins": num_bins, "discretizer": kind})
    manifest = write_shards(tmp_path, whole_episodes(), config, WHOLE)
    assert manifest.layout.bins[3:5] == (21, 21)
    choices = np.column_stack([np.arange(21), np.arange(21)[::-1]])
    tokens = manifest.discretizer.encode_columns(choices, manifest.layout.action)
    decoded = manifest.discretizer.decode_columns(tokens, manifest.layout.action)
    assert [WHOLE.environment_action(row).tolist() for row in decoded] == choices.tolist()


def test_whole_actions_of_more_choices_than_bins_are_refused_where_tokens_are_stored(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"data.num_bins is 20; expected at least 21 .* action\[0\] can have, or data.st"
    ):
        write_shards(tmp_path, whole_episodes(), DataConfig(num_bins=20), WHOLE)
    assert write_shards(tmp_path, whole_episodes(), DataConfig(num_bins=20, store="values"), WHOLE).totals.steps == 200


TAXI = Spaces.of(Discrete(500), Discrete(6))


def taxi_episodes() -> list[Episode]:
    """Episodes that see some of 500 states."""
    rng = np.random.default_rng(2)
    return [
        Episode(
            "taxi", i, rng.integers(100, 400, (51, 1)) * 1.0, rng.integers(6, size=(50, 1)), np.ones(50), True, False
        )
        for i in range(4)
    ]


@pytest.mark.parametrize("kind", ["quantile", "uniform"])
def test_no_two_states_share_a_token(tmp_path: Path, kind: str) -> None:
    config = DataConfig.model_validate({"num_bins": 500, "discretizer": kind})
    manifest = write_shards(tmp_path, taxi_episodes(), config, TAXI)
    tokens = manifest.discretizer.encode_columns(np.arange(500)[:, None], manifest.layout.observation)
    assert tokens[:, 0].tolist() == list(range(500))
    # It has fewer distinct values than bins, but no fewer bins.
    assert "observation[0]" not in manifest.statistics.few_values


def test_more_states_than_bins_are_refused_where_tokens_are_stored(tmp_path: Path) -> None:
    message = r"data.num_bins is 100; expected at least 500 .* observation\[0\] can have, or data.store values"
    with pytest.raises(ConfigError, match=message):
        write_shards(tmp_path, taxi_episodes(), DataConfig(num_bins=100), TAXI)
    assert write_shards(tmp_path, taxi_episodes(), DataConfig(num_bins=100, store="values"), TAXI).totals.steps == 200


def test_given_edges_that_do_not_tell_all_states_apart_are_refused(tmp_path: Path) -> None:
    write_shards(tmp_path / "values", taxi_episodes(), DataConfig(num_bins=100, store="values"), TAXI)
    write_shards(tmp_path / "tokens", taxi_episodes(), DataConfig(num_bins=500), TAXI)
    with pytest.raises(
        ManifestError, match=r"/values', where observation\[0\] has \d+ bins; expected .* the 500 values"
    ):
        write_shards(tmp_path / "a", taxi_episodes(), DataConfig(discretizer_from=str(tmp_path / "values")), TAXI)
    given = DataConfig(discretizer_from=str(tmp_path / "tokens"))
    assert write_shards(tmp_path / "b", taxi_episodes(), given, TAXI).layout.bins[0] == 500


@pytest.mark.parametrize("given", [False, True])
def test_states_that_the_space_does_not_have_are_refused_and_not_given_another_s_token(
    tmp_path: Path, given: bool
) -> None:
    """As in a mixture of two environments, whose columns are the first one's."""
    write_shards(tmp_path / "whole", taxi_episodes(), DataConfig(num_bins=500), TAXI)
    config = DataConfig(num_bins=500, discretizer_from=str(tmp_path / "whole") if given else None)
    fewer = Spaces.of(Discrete(300), Discrete(6))
    with pytest.raises(DataError, match=r"^observation\[0\] goes from \d+ to 3\d\d in the data; expected 0 to 299, as"):
        write_shards(tmp_path / "refused", taxi_episodes(), config, fewer)


def test_a_fit_survives_its_bytes_and_is_refused_for_other_data() -> None:
    preparation = Preparation.of([(MemorySource(random_episodes([9] * 4)), SourceConfig(id="x"))], DataConfig(), 0)
    summary = summary_of(preparation)
    fit = fit_summary(summary, preparation.config, preparation.spaces)
    again = Fit.from_bytes(fit.to_bytes("this"), "this")
    assert again is not None
    assert again.discretizer.layout == fit.discretizer.layout
    assert np.array_equal(again.discretizer.edges, fit.discretizer.edges)
    assert np.array_equal(again.discretizer.centers, fit.discretizer.centers)
    assert np.array_equal(again.summary.returns, fit.summary.returns)
    assert Fit.from_bytes(fit.to_bytes("this"), "that") is None
