"""HDF5 files that name bytes of other files as their content, or more than they hold."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.data.d4rl_source import D4rlSource
from pipeline.data.hdf5 import require_inside
from pipeline.data.minari_source import MinariSource
from pipeline.errors import DataError
from tests.data.episodes import random_episodes, write_minari

SECRET = b"the user's own key, 32 bytes ..."
Change = Callable[[h5py.Group, str, Path], None]


def soft(group: h5py.Group, name: str, _secret: Path) -> None:
    group.move(name, f"{name}-moved")
    group[name] = h5py.SoftLink(f"{group.name.rstrip('/')}/{name}-moved")


def external_link(group: h5py.Group, name: str, secret: Path) -> None:
    with h5py.File(secret.with_suffix(".hdf5"), "w") as other:
        other["x"] = group[name][()]
    del group[name]
    group[name] = h5py.ExternalLink(str(secret.with_suffix(".hdf5")), "x")


def raw_storage(group: h5py.Group, name: str, secret: Path) -> None:
    shape, kind = group[name].shape, group[name].dtype
    del group[name]
    group.create_dataset(name, shape=shape, dtype=kind, external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


def virtual(group: h5py.Group, name: str, secret: Path) -> None:
    external_link(group, name, secret)
    del group[name]
    with h5py.File(secret.with_suffix(".hdf5")) as other:
        layout = h5py.VirtualLayout(shape=other["x"].shape, dtype=other["x"].dtype)
        layout[...] = h5py.VirtualSource(other["x"])
    group.create_virtual_dataset(name, layout)


def huge(group: h5py.Group, name: str, _secret: Path) -> None:
    tail = group[name].shape[1:]
    del group[name]
    group.create_dataset(name, shape=(10**12, *tail), dtype="f8", chunks=(1000, *tail))


CHANGES = [
    (soft, "is a link to something else"),
    (external_link, "is a link to something else"),
    (raw_storage, "has its content in other files"),
    (virtual, "has its content in other files"),
    (huge, "is said to have .* bytes, in a file of"),
]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(SECRET * 100)
    return path


@pytest.mark.parametrize(("change", "message"), CHANGES)
@pytest.mark.parametrize("name", ["observations", "rewards", "timeouts"])
def test_a_d4rl_file_has_its_content_itself(
    tmp_path: Path, secret: Path, change: Change, message: str, name: str
) -> None:
    path = tmp_path / "hostile.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"], file["actions"] = np.zeros((20, 3), np.float32), np.zeros((20, 1), np.float32)
        file["rewards"] = np.zeros(20, np.float32)
        file["terminals"], file["timeouts"] = np.zeros(20, bool), np.arange(20) % 10 == 9
    assert len(D4rlSource.open(str(path)).listing().ids) == 2
    with h5py.File(path, "a") as file:
        change(file, name, secret)
    with pytest.raises(DataError, match=rf"/{name} of .*hostile\.hdf5 {message}"):
        D4rlSource.open(str(path))


@pytest.mark.parametrize(("change", "message"), CHANGES)
@pytest.mark.parametrize("name", ["observations", "rewards", "truncations"])
def test_a_minari_data_set_has_its_content_itself(
    tmp_path: Path, secret: Path, change: Change, message: str, name: str
) -> None:
    folder = write_minari(tmp_path, "hostile/x-v0", random_episodes([5, 6], source="hostile/x-v0"))
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        change(file["episode_1"], name, secret)
    source = MinariSource.open("hostile/x-v0", str(folder))
    for read in (source.listing, lambda: list(source.read([0, 1]))):
        with pytest.raises(DataError, match=rf"/episode_1/{name} of .*main_data\.hdf5 {message}"):
            read()


@pytest.mark.parametrize("link", ["external", "soft"])
def test_an_episode_is_no_link(tmp_path: Path, link: str) -> None:
    theirs = write_minari(tmp_path, "their/x-v0", random_episodes([5, 8], source="their/x-v0"))
    folder = write_minari(tmp_path, "hostile/x-v0", random_episodes([5, 6], source="hostile/x-v0"))
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        del file["episode_1"]
        other = str(theirs / "data" / "main_data.hdf5")
        file["episode_1"] = h5py.ExternalLink(other, "episode_1") if link == "external" else h5py.SoftLink("/episode_0")
    source = MinariSource.open("hostile/x-v0", str(folder))
    for read in (source.listing, lambda: list(source.read([0, 1]))):
        with pytest.raises(DataError, match=r"/episode_1 of .*main_data\.hdf5 is a link to something else"):
            read()


def test_what_compresses_well_is_no_lie(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "zeros.hdf5", "w") as file:
        file.create_dataset("x", data=np.zeros(20_000_000, np.float32), compression="gzip", compression_opts=9)
        file.create_group("g")["y"] = 3.0
        file.flush()
        assert file["x"].nbytes > 500 * file.id.get_filesize()
        require_inside(file, "x")
        require_inside(file, "g")
