import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import ray
from gymnasium.spaces import Box, Discrete
from minari.data_collector import EpisodeBuffer
from minari.storage.datasets_root_dir import get_dataset_path

from pipeline.data.manifest import MANIFEST_NAME, read_manifest
from pipeline.data.shards import read_table
from pipeline.data.table import OBSERVATIONS, RETURNS_TO_GO, REWARDS, TOKENS
from pipeline.distributed.prepare import FIT_NAME, prepare
from pipeline.errors import ClusterError, ConfigError, DataError, ManifestError, RunFolderError
from pipeline.records import Episode
from pipeline.references.prepare import reference_prepare
from tests.conftest import REPOSITORY
from tests.data.episodes import counting_episodes, random_episodes, write_buffers, write_minari
from tests.data.test_d4rl_source import write_d4rl
from tests.distributed.paused_preparation import FatalSource, PausingSource, go_on, only
from tests.distributed.stages import experiment, files, kill, write_config

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

LENGTHS = np.random.default_rng(0).integers(1, 60, 150).tolist()


def prepared(runs: Path, name: str, **data: object) -> Path:
    """Prepares the data set test/data-v0 below `runs` and returns the shards' folder."""
    settings = {"sources": [{"id": "test/data-v0", "root": str(runs)}], "num_bins": 20, "steps_per_shard": 500, **data}
    entire, run = experiment(runs, name, data=settings)
    prepare(entire, run)
    return run.shards


def test_any_number_of_workers_gives_the_references_tokens_and_the_same_bytes(tmp_path: Path) -> None:
    folder = write_minari(tmp_path, "test/data-v0", random_episodes(LENGTHS))
    shards = [prepared(tmp_path, f"workers-{count}", num_workers=count, validation_share=0.0) for count in (1, 2, 3)]
    contents = [files(folder) for folder in shards]
    assert len(contents[0]) == len(read_manifest(shards[0]).shards) + 1 > 5
    assert contents[0] == contents[1] == contents[2]
    reference = reference_prepare(folder / "data" / "main_data.hdf5", None, 20, 0.99)
    episodes = read_table(shards[0], "train", [TOKENS])
    assert np.array_equal(episodes[TOKENS], reference.tokens)
    assert np.diff(episodes.offsets).tolist() == reference.lengths.tolist() == LENGTHS


def test_no_step_is_lost_doubled_or_moved_in_a_mixture(tmp_path: Path) -> None:
    write_minari(tmp_path, "test/a-v0", counting_episodes(LENGTHS[:40]))
    write_minari(tmp_path, "test/b-v0", counting_episodes(LENGTHS[40:100]), data_format="arrow")
    sources = [{"id": "test/{a,b}-v0", "root": str(tmp_path)}]
    folder = prepared(tmp_path, "mixture", sources=sources, num_bins=20_000, steps_per_row=7, validation_share=0.3)
    manifest = read_manifest(folder)
    assert [(source.name, source.episodes) for source in manifest.sources] == [("test/a-v0", 40), ("test/b-v0", 60)]
    found = []
    for split in ("train", "validation"):
        episodes = read_table(folder, split, [TOKENS])
        numbers = np.round(manifest.discretizer.decode(episodes[TOKENS])[:, :2]).astype(int)
        for start, end in zip(episodes.offsets, episodes.offsets[1:], strict=False):
            assert numbers[start:end, 1].tolist() == list(range(end - start))
            found.append((numbers[start, 0], end - start))
    expected = [*enumerate(LENGTHS[:40]), *enumerate(LENGTHS[40:100])]
    assert sorted(found) == sorted(expected)


def joined(episodes: Sequence[Episode]) -> EpisodeBuffer:
    """One recording of several episodes, as a collector makes it that does not divide them."""
    ends = np.cumsum([episode.num_steps for episode in episodes]) - 1
    marks = np.zeros((2, ends[-1] + 1), np.bool_)
    marks[:, ends] = np.array([(episode.terminated, episode.truncated) for episode in episodes]).T
    return EpisodeBuffer(
        observations=np.concatenate(
            [*(episode.observations[:-1] for episode in episodes), episodes[-1].observations[-1:]]
        ),
        actions=np.concatenate([episode.actions for episode in episodes]).astype(np.float32),
        rewards=np.concatenate([episode.rewards for episode in episodes]),
        terminations=marks[0],
        truncations=marks[1],
    )


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_recordings_with_ends_in_their_middle_are_prepared_as_episodes_that_were_recorded_one_by_one(
    tmp_path: Path, data_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    episodes = random_episodes(LENGTHS[:60])
    # Recordings of 1 to 20 episodes; ranges of 100 steps begin in the middle of one.
    buffers = [joined(episodes[start:end]) for start, end in pairwise([0, 1, 2, 22, 40, 45, 60])]
    numbered = [replace(buffer, id=number) for number, buffer in enumerate(buffers)]
    write_buffers(tmp_path, "test/joined-v0", numbered, data_format)
    write_minari(tmp_path, "test/data-v0", episodes)
    sources = [{"id": "test/joined-v0", "root": str(tmp_path)}]
    settings = {"steps_per_shard": 100, "validation_share": 0.0}
    folders = [prepared(tmp_path, f"w{n}", sources=sources, num_workers=n, **settings) for n in (1, 2)]
    assert "4 recorded episodes have ends in their middle and were divided there" in capsys.readouterr().out
    assert files(folders[0]) == files(folders[1])
    apart = prepared(tmp_path, "apart", **settings)
    columns = [TOKENS, OBSERVATIONS, REWARDS, RETURNS_TO_GO]
    found, expected = (read_table(folder, "train", columns) for folder in (folders[0], apart))
    for column in columns:
        assert np.array_equal(found[column], expected[column])
    assert found.offsets.tolist() == expected.offsets.tolist()
    assert found.terminated.tolist() == expected.terminated.tolist()
    manifest, other = read_manifest(folders[0]), read_manifest(apart)
    assert manifest.totals == other.totals
    assert manifest.sources[0].available_episodes == 60
    before = files(folders[0])
    (folders[0] / "shard-00002.parquet").unlink()
    prepared(tmp_path, "w1", sources=sources, num_workers=1, **settings)
    assert files(folders[0]) == before


@pytest.mark.slow
def test_a_killed_preparation_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"sources": [{"id": "memory"}], "num_bins": 20, "steps_per_shard": 100}
    entire, run = experiment(tmp_path, "killed", data=data)
    config, log = write_config(entire), tmp_path / "log.txt"
    command = [sys.executable, "-m", "tests.distributed.paused_preparation", str(config)]
    with log.open("wb") as output:
        job = subprocess.Popen(command, cwd=REPOSITORY, stdout=output, stderr=output)
    kill(job, lambda: len(list(run.shards.glob("*.parquet"))) >= 4, log)
    assert not (run.shards / MANIFEST_NAME).exists()
    kept = {path: path.stat().st_mtime_ns for path in run.shards.glob("*.parquet")}
    assert 4 <= len(kept) < 12
    go_on(run.shards).touch()
    sources = only(PausingSource(random_episodes([40] * 30), shards=run.shards))
    monkeypatch.setattr("pipeline.distributed.prepare.resolve_sources", lambda *_: sources)
    prepare(entire, run)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "what was kept was written again"
    _, other = experiment(tmp_path, "at-once")
    prepare(entire, other)
    assert files(run.shards) == files(other.shards)


def test_a_range_that_always_loses_its_process_ends_in_plain_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = only(FatalSource(random_episodes([5] * 5)))
    monkeypatch.setattr("pipeline.distributed.prepare.resolve_sources", lambda *_: sources)
    entire, run = experiment(tmp_path, "fatal", data={"sources": [{"id": "memory"}]})
    with pytest.raises(
        ClusterError, match=r"was not read in 3 attempts; expected .* \(WorkerCrashedError: .*lower data"
    ):
        prepare(entire, run)


def test_an_unfinished_preparation_of_other_data_is_begun_again(tmp_path: Path) -> None:
    folder = write_minari(tmp_path, "test/data-v0", random_episodes([10] * 40))
    shards = prepared(tmp_path, "first", steps_per_shard=100)
    first = files(shards)
    fit = shards / FIT_NAME
    assert not fit.exists()
    (shards / MANIFEST_NAME).unlink()
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        file["episode_3/rewards"][0] = 1e6
    metadata = folder / "data" / "metadata.json"
    metadata.write_text(metadata.read_text().replace('"total_steps": 400', '"total_steps": 400, "description": "new"'))
    prepared(tmp_path, "first", steps_per_shard=100)
    second = prepared(tmp_path, "second", steps_per_shard=100)
    assert files(shards) == files(second) != first


def test_a_second_call_does_nothing_and_another_configuration_is_refused(tmp_path: Path) -> None:
    write_minari(tmp_path, "test/data-v0", random_episodes([10] * 20))
    shards = prepared(tmp_path, "once")
    written = (shards / MANIFEST_NAME).stat().st_mtime_ns
    prepared(tmp_path, "once", num_workers=1, download=False)
    assert (shards / MANIFEST_NAME).stat().st_mtime_ns == written
    with pytest.raises(RunFolderError, match=r"holds shards of another configuration.*\n.*num_bins: was 20, is 21"):
        prepared(tmp_path, "once", num_bins=21)


def test_a_misspelt_data_set_does_not_take_the_runs_name(tmp_path: Path) -> None:
    write_minari(tmp_path, "test/data-v0", random_episodes([10] * 20))
    with pytest.raises(DataError, match="test/dada-v0"):
        prepared(tmp_path, "once", sources=[{"id": "test/dada-v0", "root": str(tmp_path)}])
    assert read_manifest(str(prepared(tmp_path, "once"))).totals.steps == 200


def test_shards_can_go_elsewhere(tmp_path: Path) -> None:
    write_minari(tmp_path, "test/data-v0", random_episodes([10] * 20))
    inside = prepared(tmp_path, "inside")
    prepared(tmp_path, "elsewhere", output=f"file://{tmp_path}/other/place")
    assert files(tmp_path / "other" / "place") == files(inside)


def test_another_runs_shards_are_not_taken_for_its_own(tmp_path: Path) -> None:
    write_minari(tmp_path, "test/data-v0", random_episodes([10] * 20))
    prepared(tmp_path, "first", output=f"{tmp_path}/place")
    with pytest.raises(RunFolderError, match=r"place holds shards of another .*\n.*num_bins: was 20, is 9"):
        prepared(tmp_path, "second", output=f"{tmp_path}/place", num_bins=9)
    (tmp_path / "place" / "_identity.yaml").unlink()
    with pytest.raises(RunFolderError, match=r"place', which holds 'manifest.json' but no _identity.yaml; expected an"):
        prepared(tmp_path, "third", output=f"{tmp_path}/place")


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), r"has \S+ bytes instead of \S+"),
        # In the middle of the values: it still names its settings, as a shard that an unfinished run left.
        (lambda path: flip(path, 2000), r"has the sha256 \S+\.\.\. instead of \S+\.\.\."),
    ],
    ids=["missing", "shorter", "changed"],
)
def test_shards_that_are_not_the_manifest_s_are_told_and_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: Callable[[Path], None], told: str
) -> None:
    write_minari(tmp_path, "test/data-v0", random_episodes([50] * 30))
    folder = prepared(tmp_path, "damaged")
    before = files(folder)
    untouched = (folder / "shard-00000.parquet").stat().st_mtime_ns
    harm(folder / "shard-00001.parquet")
    capsys.readouterr()
    prepared(tmp_path, "damaged")
    output = capsys.readouterr().out
    assert re.search(rf"shards has 1 of 3 shards missing or damaged \(shard-00001\.parquet {told}\); exp", output)
    assert files(folder) == before
    assert (folder / "shard-00000.parquet").stat().st_mtime_ns == untouched
    prepared(tmp_path, "damaged")
    assert "1,500 steps are there already, as their checksums say" in capsys.readouterr().out


def test_a_damaged_manifest_is_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_minari(tmp_path, "test/data-v0", random_episodes([50] * 30))
    folder = prepared(tmp_path, "damaged")
    before = files(folder)
    (folder / MANIFEST_NAME).write_text("{")
    prepared(tmp_path, "damaged")
    assert files(folder) == before
    assert "which makes it again. Making it again." in capsys.readouterr().out


def test_d4rl_files_are_prepared_too(tmp_path: Path) -> None:
    path = write_d4rl(tmp_path / "a.hdf5")
    manifest = read_manifest(prepared(tmp_path, "d4rl", sources=[{"id": path}]))
    assert (manifest.totals.episodes, manifest.totals.steps) == (3, 10)
    assert manifest.statistics.returns[0].terminations == 1


def test_d4rl_files_without_timeouts_need_a_limit(tmp_path: Path) -> None:
    path = write_d4rl(tmp_path / "a.hdf5", steps=500, timeouts=None, terminals=np.zeros(500, np.bool_))
    with pytest.raises(DataError, match=r"500 of all 500 steps; expected .* Set data.max_episode_steps"):
        prepared(tmp_path, "walks", sources=[{"id": path}])
    folder = prepared(tmp_path, "walks", sources=[{"id": path}], max_episode_steps=100, validation_share=0.2)
    totals = read_manifest(folder).totals
    assert (totals.episodes, totals.validation_episodes, totals.steps) == (5, 1, 500)
    # The rewards are the steps' numbers: no sum runs on into the next walk.
    table = read_table(folder, "train", [REWARDS, RETURNS_TO_GO])
    starts = table.offsets[:-1]
    assert table[RETURNS_TO_GO][starts].tolist() == [100 * first + 4950 for first in table[REWARDS][starts]]


def test_on_a_cluster_a_data_set_is_downloaded_to_where_all_nodes_see_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(dataset_id: str) -> None:
        write_minari(get_dataset_path(), dataset_id, random_episodes([10] * 5))

    monkeypatch.setattr("minari.download_dataset", download)
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "own"))
    prepared(tmp_path, "told", sources=[{"id": "hub/told-v0"}])
    assert (tmp_path / "own/hub/told-v0/data").is_dir()
    monkeypatch.delenv("MINARI_DATASETS_PATH")
    prepared(tmp_path, "shared", sources=[{"id": "hub/shared-v0"}])
    assert (tmp_path / "datasets/hub/shared-v0/data").is_dir()


def test_the_report_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_minari(tmp_path, "test/data-v0", random_episodes([10] * 20))
    prepared(tmp_path, "printed")
    output = capsys.readouterr().out
    assert "200 steps in 20 episodes (1 for validation), 1 shard, " in output
    assert "test/data-v0" in output


@pytest.mark.parametrize("step", [4, 0])
def test_the_first_bad_episode_in_the_order_of_the_data_is_named(tmp_path: Path, step: int) -> None:
    episodes = random_episodes([10] * 60)
    for number in (50, 31):
        episodes[number].rewards[step] = np.nan
    write_minari(tmp_path, "test/data-v0", episodes)
    with pytest.raises(
        DataError, match=rf"Episode 31 of test/data-v0 has 1 NaN .* rewards, the first at step {step}; exp"
    ):
        prepared(tmp_path, "bad", steps_per_shard=50)
    assert not (tmp_path / "bad" / "shards" / MANIFEST_NAME).exists()


@pytest.mark.parametrize("on_invalid", ["refuse", "drop"])
def test_nothing_but_episodes_without_steps_is_refused(tmp_path: Path, on_invalid: str) -> None:
    folder = write_minari(tmp_path, "test/data-v0", random_episodes([1] * 3))
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        for number in range(3):
            group = file[f"episode_{number}"]
            group.attrs["total_steps"] = 0
            for name in ("actions", "rewards", "terminations", "truncations", "observations"):
                rows = group[name][:1] if name == "observations" else group[name][:0]
                del group[name]
                group[name] = rows
    with pytest.raises(DataError, match=r"Episode 0 of test/data-v0 has 0 steps"):
        prepared(tmp_path, "empty", on_invalid=on_invalid)


def test_as_many_observations_as_actions_are_refused_or_left_out(tmp_path: Path) -> None:
    folder = write_minari(tmp_path, "test/data-v0", random_episodes([10] * 5))
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        rows = file["episode_2/observations"][:-1]
        del file["episode_2/observations"]
        file["episode_2/observations"] = rows
    with pytest.raises(
        DataError,
        match=r"Episode 2 of test/data-v0 has 10 rewards, but 10 observations; expected .* Set data.on_invalid",
    ):
        prepared(tmp_path, "short")
    manifest = read_manifest(prepared(tmp_path, "dropped", on_invalid="drop"))
    assert manifest.totals.steps == 40
    assert manifest.statistics.invalid == ("Episode 2 of test/data-v0 has 10 rewards, but 10 observations",)


def test_a_mixture_of_different_environments_is_refused(tmp_path: Path) -> None:
    write_minari(tmp_path, "test/data-v0", random_episodes([5] * 5))
    path = write_d4rl(tmp_path / "a.hdf5")
    sources = [{"id": "test/data-v0", "root": str(tmp_path)}, {"id": path}]
    with pytest.raises(DataError, match=r"a.hdf5 has 2 observation and 1 action columns; expected 3 and 2"):
        prepared(tmp_path, "mixed", sources=sources)


def test_a_cluster_that_does_nothing_is_given_up(tmp_path: Path) -> None:
    write_minari(tmp_path, "test/data-v0", random_episodes([5] * 5))
    with pytest.raises(
        ClusterError, match=r"no range of episodes was read within data.timeout_s, 0.001 s; expected room for 1 CPU and"
    ):
        prepared(tmp_path, "slow", timeout_s=0.001)


def test_neither_sources_nor_collected_behaviour_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.sources is empty and .* has no data set collected/behaviour-v0"):
        prepared(tmp_path, "nothing", sources=[])


def test_what_no_model_or_token_has_room_for_is_refused_before_the_folder_is_of_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    states = [replace(one, observations=rng.integers(30, size=(6, 1)) * 1.0) for one in random_episodes([5] * 5)]
    write_minari(tmp_path, "test/data-v0", states, observation_space=Discrete(30))
    images = [replace(one, observations=np.zeros((6, 13 * 13 * 3))) for one in states]
    write_minari(tmp_path, "test/image-v0", images, observation_space=Box(0, 255, (13, 13, 3), np.uint8))
    with pytest.raises(DataError, match=r"507 columns; expected at most data\.max_observation_columns, 500, as images"):
        prepared(tmp_path, "refused", sources=[{"id": "test/image-v0", "root": str(tmp_path)}])
    with pytest.raises(ConfigError, match=r"data\.num_bins is 20; expected at least 30 .* observation\[0\] can have"):
        prepared(tmp_path, "refused")
    assert read_manifest(prepared(tmp_path, "refused", num_bins=30)).layout.bins[0] == 30


def test_edges_of_shards_that_are_not_there_are_refused(tmp_path: Path) -> None:
    write_minari(tmp_path, "test/data-v0", random_episodes([5] * 5))
    with pytest.raises(ManifestError, match=r"nowhere has no manifest.json; expected finished shards"):
        prepared(tmp_path, "given", discretizer_from=str(tmp_path / "nowhere"))
