from pathlib import Path

import pytest

from pipeline.data.config import DataConfig, SourceConfig
from pipeline.data.d4rl_source import D4rlSource
from pipeline.data.resolve import expand_braces, resolve_sources
from pipeline.errors import DataError, StorageError
from tests.data.episodes import random_episodes, write_minari
from tests.data.test_d4rl_source import write_d4rl

COLLECTED = SourceConfig(id="collected/behaviour-v0")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("hopper/simple-v0", "hopper/medium-v0", "hopper/expert-v0", "walker/medium-v0"):
        write_minari(tmp_path, f"space/{name}", random_episodes([3]))
    return tmp_path


def names(root: Path, *ids: str, download: bool = False) -> list[str]:
    config = DataConfig(sources=tuple(SourceConfig(id=name, root=str(root)) for name in ids), download=download)
    return [source.name for source, _ in resolve_sources(config, COLLECTED)]


def test_braces_expand_from_left_to_right() -> None:
    assert expand_braces("a/{b,c}/{d,e}-v0") == ["a/b/d-v0", "a/b/e-v0", "a/c/d-v0", "a/c/e-v0"]
    assert expand_braces("plain") == ["plain"]


def test_a_mixture_keeps_the_order_of_its_braces(root: Path) -> None:
    assert names(root, "space/hopper/{medium,expert}-v0") == ["space/hopper/medium-v0", "space/hopper/expert-v0"]


def test_a_glob_takes_every_match_by_name(root: Path) -> None:
    assert names(root, "space/hopper/*-v0") == [f"space/hopper/{name}-v0" for name in ("expert", "medium", "simple")]
    assert names(root, "space/*/medium-v0") == ["space/hopper/medium-v0", "space/walker/medium-v0"]


def test_minaris_own_folder_is_searched_where_no_root_is_given(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    config = DataConfig(sources=(SourceConfig(id="space/walker/medium-v0"),))
    assert [source.name for source, _ in resolve_sources(config, COLLECTED)] == ["space/walker/medium-v0"]


def test_where_minaris_own_folder_cannot_be_made_the_variable_that_moves_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "file" / "datasets"))
    message = (
        "^Minari's folder of data sets cannot be made .*; expected one that can .*Set MINARI_DATASETS_PATH, or the"
    )
    with pytest.raises(StorageError, match=message):
        resolve_sources(DataConfig(sources=[SourceConfig(id="a/b-v0")]), SourceConfig(id="unused"))


def test_without_sources_the_collected_behaviour_is_taken(root: Path) -> None:
    collected = SourceConfig(id="space/hopper/simple-v0", root=str(root))
    assert [source.name for source, _ in resolve_sources(DataConfig(), collected)] == ["space/hopper/simple-v0"]


def test_d4rl_files_are_found_by_their_ending(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_d4rl(tmp_path / f"{name}.hdf5")
    assert names(tmp_path, f"{tmp_path}/*.hdf5") == [f"{tmp_path}/a.hdf5", f"{tmp_path}/b.hdf5"]


@pytest.mark.parametrize("folder", ["run[1]", "a{b,c}", "what?*"])
def test_a_path_that_is_there_is_taken_as_it_stands(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    path = write_d4rl(tmp_path / folder / "a.hdf5")
    assert names(tmp_path, path) == [path]
    (url,) = names(tmp_path, f"file://{path}")
    assert D4rlSource.open(url).listing().lengths.tolist() == [4, 3, 3]


def test_a_bracket_is_part_of_a_name(tmp_path: Path) -> None:
    for folder in ("run[1]", "run1"):
        (tmp_path / folder).mkdir()
        write_d4rl(tmp_path / folder / "a.hdf5")
    assert names(tmp_path, f"{tmp_path}/run[1]/*.hdf5") == [f"{tmp_path}/run[1]/a.hdf5"]
    assert names(tmp_path, f"file://{tmp_path}/run[1]/*.hdf5") == [f"{tmp_path}/run[1]/a.hdf5"]
    with pytest.raises(DataError, match=r"names 'space/\[a-z\]\*-v0', which matches nothing"):
        names(tmp_path, "space/[a-z]*-v0")


def test_the_limit_reaches_every_source(root: Path) -> None:
    path = write_d4rl(root / "a.hdf5", timeouts=None)
    entries = (SourceConfig(id="space/walker/medium-v0", root=str(root)), SourceConfig(id=path))
    found = resolve_sources(DataConfig(sources=entries, max_episode_steps=2), COLLECTED)
    assert [source.listing().lengths.tolist() for source, _ in found] == [[2, 1], [2, 2, 2, 2, 2]]


@pytest.mark.parametrize("pattern", ["space/hopper/medium-v0", "space/hopper/*"])
def test_a_data_set_without_metadata_is_told_and_not_passed_over(
    root: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    """Minari before 0.5 wrote none."""
    monkeypatch.setattr("minari.download_dataset", lambda name: pytest.fail("the hub was asked"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    (root / "space/hopper/medium-v0/data/metadata.json").unlink()
    with pytest.raises(
        DataError, match=r"space/hopper/medium-v0 in .* but no data/metadata.json: Minari before 0.5 wrote it"
    ):
        resolve_sources(DataConfig(sources=(SourceConfig(id=pattern),)), COLLECTED)


def test_an_unknown_data_set_is_refused_with_those_that_are_there(root: Path) -> None:
    with pytest.raises(
        DataError, match=r"names 'space/hopper/best-v0', which matches nothing .*space/hopper/expert-v0, space"
    ):
        names(root, "space/hopper/best-v0")


@pytest.mark.parametrize("dataset_id", ["{root}/space/walker/medium-v0", "../datasets/space/walker/medium-v0"])
def test_a_folder_in_place_of_an_id_is_refused_with_what_to_give(root: Path, dataset_id: str) -> None:
    with pytest.raises(
        DataError, match=r"names '.*medium-v0', a path; expected the id .* give \{root: /path/to, id: sp"
    ):
        names(root, dataset_id.replace("{root}", str(root)))


def test_relative_places_mean_the_same_to_workers_elsewhere(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    write_d4rl(root / "a.hdf5")
    entries = (SourceConfig(id="space/walker/medium-v0", root="."), SourceConfig(id="*.hdf5"))
    found = [source for source, _ in resolve_sources(DataConfig(sources=entries), COLLECTED)]
    assert [source.name for source in found] == ["space/walker/medium-v0", "a.hdf5"], "shards must not name a machine"
    monkeypatch.chdir("/")
    assert [len(source.listing().ids) for source in found] == [1, 3]


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"names '.*none.hdf5', where there is no file; expected a D4RL HDF5 file"):
        names(tmp_path, f"{tmp_path}/none.hdf5")


def test_a_data_set_that_is_named_twice_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match=r"names \['space/walker/medium-v0'\] more than once"):
        names(root, "space/walker/medium-v0", "space/walker/*")


def test_a_data_set_that_is_missing_is_fetched_from_the_hub(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    fetched: list[str] = []

    def download(dataset_id: str) -> None:
        fetched.append(dataset_id)
        write_minari(root, dataset_id, random_episodes([3]))

    monkeypatch.setattr("minari.download_dataset", download)
    config = DataConfig(sources=(SourceConfig(id="mujoco/hopper/medium-v0"),))
    assert [source.name for source, _ in resolve_sources(config, COLLECTED)] == ["mujoco/hopper/medium-v0"]
    assert fetched == ["mujoco/hopper/medium-v0"]


@pytest.mark.parametrize("dataset_id", ["no such id", "hopper", "mujoco/hopper/medium", "mujoco/*/medium-v0"])
def test_what_is_no_id_is_not_looked_for_on_the_hub(dataset_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minari.download_dataset", lambda name: pytest.fail("the hub was asked"))
    with pytest.raises(DataError, match=r"which matches nothing in .*; expected the id of a data set there: none"):
        resolve_sources(DataConfig(sources=(SourceConfig(id=dataset_id),)), COLLECTED)


def test_a_data_set_that_cannot_be_fetched_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(dataset_id: str) -> None:
        raise ConnectionError("no route to host\nand a long story")

    monkeypatch.setattr("minari.download_dataset", download)
    config = DataConfig(sources=(SourceConfig(id="mujoco/hopper/medium-v0"),))
    with pytest.raises(
        DataError, match=r"\(ConnectionError: no route to host\).*minari download mujoco/hopper/medium-v0"
    ):
        resolve_sources(config, COLLECTED)
