"""Fixtures of all tests: one quiet Ray for the whole session, nothing in the home folder, no threads fighting."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.pop("RAY_ADDRESS", None)

import pipeline.distributed  # noqa: F401 (sets the switches of Ray before anything imports it)

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"


@pytest.fixture(autouse=True)
def no_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Sends everything that would be written to the home folder, Minari's datasets above all, somewhere else."""
    home = tmp_path_factory.getbasetemp() / "home"
    home.mkdir(exist_ok=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(home / "minari"))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray of two CPUs for all tests that need one: starting it costs 5 to 10 seconds."""
    from pipeline.distributed.session import session

    with session():
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real datasets and policies that lies beside some checkouts."""
    if not SHARED.is_dir():
        pytest.skip("../shared is not there: this test needs its real datasets or policies")
    return SHARED
