import numpy as np
import pytest

from pipeline.data.config import SourceConfig
from pipeline.data.index import EpisodeIndex, build_index, read_episodes, with_validation
from pipeline.errors import DataError
from pipeline.records import Episode
from tests.data.in_memory import MemorySource


def counting_source(lengths: list[int], name: str = "counting") -> MemorySource:
    episodes = [
        Episode(name, number, np.full((length + 1, 1), number), np.zeros((length, 1)), np.ones(length), True, False)
        for number, length in enumerate(lengths)
    ]
    return MemorySource(episodes, name=name)


def index_of(lengths: list[int]) -> EpisodeIndex:
    return built([(counting_source(lengths), SourceConfig(id="counting"))])


def built(sources: list[tuple[MemorySource, SourceConfig]], seed: int = 0) -> EpisodeIndex:
    return build_index(sources, [source.listing() for source, _ in sources], seed)


def test_a_block_ends_with_the_episode_that_fills_it() -> None:
    assert index_of([5, 5, 5, 30, 1, 1]).blocks(10) == [slice(0, 2), slice(2, 4), slice(4, 6)]


def test_blocks_cover_every_episode_once() -> None:
    index = index_of([3, 1, 4, 1, 5, 9, 2, 6])
    for steps in (1, 2, 7, 31, 1000):
        places = [place for block in index.blocks(steps) for place in range(block.start, block.stop)]
        assert places == list(range(8))


def test_a_share_takes_that_part_of_the_episodes_in_order() -> None:
    source = counting_source([4] * 20)
    index = built([(source, SourceConfig(id="x", share=0.25))], 7)
    assert len(index) == 5
    assert index.ids.tolist() == sorted(set(index.ids.tolist()))
    again = built([(source, SourceConfig(id="x", share=0.25))], 7)
    assert again.ids.tolist() == index.ids.tolist()
    assert built([(source, SourceConfig(id="x", share=0.25))], 8).ids.tolist() != index.ids.tolist()


def test_a_cap_takes_episodes_until_they_have_enough_steps() -> None:
    index = built([(counting_source([10] * 20), SourceConfig(id="x", max_steps=35))])
    assert index.steps == 40


def test_each_source_has_its_own_cap() -> None:
    sources = [
        (counting_source([10] * 5, "a"), SourceConfig(id="a", max_steps=10)),
        (counting_source([10] * 5, "b"), SourceConfig(id="b")),
    ]
    index = built(sources)
    assert (index.sources == 0).sum() == 1
    assert (index.sources == 1).sum() == 5


def test_episodes_are_read_in_order_each_with_its_source() -> None:
    sources = [counting_source([1, 2], "a"), counting_source([3, 4], "b")]
    index = built([(source, SourceConfig(id="x")) for source in sources])
    read = [
        (number, episode.source, episode.episode_id, episode.num_steps)
        for number, episode in read_episodes(sources, index)
    ]
    assert read == [(0, "a", 0, 1), (0, "a", 1, 2), (1, "b", 0, 3), (1, "b", 1, 4)]


def test_the_validation_split_holds_its_share_and_depends_on_the_seed_alone() -> None:
    index = index_of([2] * 100)
    first, again, other = (with_validation(index, 0.1, seed).held_out for seed in (3, 3, 4))
    assert first.sum() == 10
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_small_share_still_holds_one_episode_out_and_none_holds_none() -> None:
    index = index_of([2] * 5)
    assert with_validation(index, 0.01, 0).held_out.sum() == 1
    assert with_validation(index, 0.0, 0).held_out.sum() == 0


def test_a_single_episode_cannot_be_divided() -> None:
    with pytest.raises(
        DataError, match=r"data.validation_share is 0.05: 1 of 1 episodes are held out; expected at least 1"
    ):
        with_validation(index_of([3]), 0.05, 0)


def test_a_source_without_episodes_is_refused() -> None:
    with pytest.raises(DataError, match="empty has 0 episodes; expected at least 1"):
        built([(counting_source([], "empty"), SourceConfig(id="x"))])


def test_no_source_at_all_is_refused() -> None:
    with pytest.raises(DataError, match=r"data.sources is empty"):
        built([])
