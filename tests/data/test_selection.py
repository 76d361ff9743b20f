from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.config import DataConfig
from pipeline.data.manifest import Manifest
from pipeline.data.selection import Selection, best_episodes
from pipeline.data.shards import count_steps, read_table
from pipeline.data.table import ACTIONS, Rank, Split
from pipeline.errors import ManifestError
from pipeline.records import Episode
from tests.data.in_memory import write_shards

LENGTHS = [3, 6, 13, 50, 5, 17, 1]
RETURNS = [2.19, 11.67, 17.65, -9.93, 15.05, 7.89, 1.38]
WORST_TO_BEST = [3, 6, 0, 5, 1, 4, 2]
"""Trajectories that the released code of the Decision Transformer was run on, and how it ranks them."""


def write(folder: Path, lengths: Sequence[int], returns: Sequence[float], **settings: object) -> Manifest:
    """Writes episodes of given returns, whose action is their number."""
    episodes = [
        Episode(
            source="memory",
            episode_id=number,
            observations=np.zeros((length + 1, 1)),
            actions=np.full((length, 1), number),
            rewards=np.append(np.zeros(length - 1), total),
            terminated=True,
            truncated=False,
        )
        for number, (length, total) in enumerate(zip(lengths, returns, strict=True))
    ]
    config = {"num_bins": 5, "validation_share": 0.0, "steps_per_shard": 20, **settings}
    return write_shards(folder, episodes, DataConfig.model_validate(config))


def chosen(folder: Path, manifest: Manifest, selection: Selection, split: Split = "train") -> list[int]:
    """The episodes that are read, in the order of the shards; checks that all ways of counting agree."""
    table = read_table(folder, split, [ACTIONS], lowest=selection.lowest)
    counted = sum(count_steps(folder, shard, split, selection.lowest) for shard in manifest.shards)
    assert table.num_steps == counted == selection.steps
    numbers = table[ACTIONS][table.offsets[:-1], 0].astype(int).tolist()
    assert np.array_equal(table[ACTIONS][:, 0], np.repeat(numbers, np.diff(table.offsets)))
    return numbers


@pytest.mark.parametrize("steps_per_row", [1000, 4])
@pytest.mark.parametrize(
    ("share", "kept"),
    [
        (1.0, [3, 6, 0, 5, 1, 4, 2]),
        (0.5, [6, 0, 5, 1, 4, 2]),
        (0.3, [1, 4, 2]),  # 17 steps do not fit any more; 3 and 1 behind them would
        (0.1, [2]),  # 9 steps, where the best has 13
        (0.01, [2]),
    ],
)
def test_the_best_episodes_are_those_of_the_released_code(
    tmp_path: Path, share: float, kept: list[int], steps_per_row: int
) -> None:
    """Also where long ones are split over rows."""
    manifest = write(tmp_path, LENGTHS, RETURNS, steps_per_row=steps_per_row)
    selection = best_episodes(tmp_path, manifest, "train", share)
    assert (selection.lowest is None) == (share == 1)
    assert selection.lowest is None or selection.lowest == Rank(RETURNS[kept[0]], "memory", kept[0])
    assert chosen(tmp_path, manifest, selection) == sorted(kept)
    assert kept == WORST_TO_BEST[-len(kept) :]


@pytest.mark.parametrize(("share", "steps"), [(0.5, 5), (0.49, 3), (0.19, 3)])
def test_a_share_that_is_just_filled_is_filled(tmp_path: Path, share: float, steps: int) -> None:
    manifest = write(tmp_path, [5, 2, 3], [1.0, 2.0, 3.0])
    assert best_episodes(tmp_path, manifest, "train", share).steps == steps


def test_ties_do_not_depend_on_the_order_of_the_shards(tmp_path: Path) -> None:
    manifest = write(tmp_path, [10] * 6, [1.0] * 6, steps_per_shard=10)
    backwards = manifest.model_copy(update={"shards": manifest.shards[::-1]})
    found = [best_episodes(tmp_path, shards, "train", 0.5) for shards in (manifest, backwards)]
    assert found == [Selection(Rank(1.0, "memory", 3), 30)] * 2


def test_each_split_has_a_best_share_of_its_own(tmp_path: Path) -> None:
    manifest = write(tmp_path, [10] * 10, list(range(10)), validation_share=0.4)
    splits: tuple[Split, Split] = ("train", "validation")
    for split in splits:
        everything = chosen(tmp_path, manifest, best_episodes(tmp_path, manifest, split, 1.0), split)
        best = chosen(tmp_path, manifest, best_episodes(tmp_path, manifest, split, 0.5), split)
        assert best == everything[len(everything) // 2 :]


def test_nothing_is_the_best_of_nothing(tmp_path: Path) -> None:
    manifest = write(tmp_path, LENGTHS, RETURNS)
    assert best_episodes(tmp_path, manifest, "validation", 0.5) == Selection(None, 0)


def test_a_shard_that_is_no_parquet_any_more_is_told_with_what_makes_it_again(tmp_path: Path) -> None:
    manifest = write(tmp_path, LENGTHS, RETURNS)
    path = tmp_path / manifest.shards[1].file
    path.write_bytes(path.read_bytes()[:-20])
    told = rf"^{path} is not readable \(.*\); expected a shard of its manifest\. .* run jobs/prepare\.py with the run's"
    with pytest.raises(ManifestError, match=told):
        best_episodes(tmp_path, manifest, "train", 0.5)
