"""Fixtures of all tests: one quiet Ray a process, nothing in the home folder, no threads fighting."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.pop("RAY_ADDRESS", None)

import pipeline.distributed  # noqa: F401 (sets the switches of Ray before anything imports it)
from pipeline.provenance import computed_by

REPOSITORY = Path(__file__).resolve().parent.parent
NUMBA_CACHE = REPOSITORY / ".pytest_cache" / "numba"
"""Of its own for each process that runs tests: Numba numbers the files of a cache without a lock."""
os.environ.setdefault("NUMBA_CACHE_DIR", str(NUMBA_CACHE / os.environ.get("PYTEST_XDIST_WORKER", "alone")))
DURATIONS = Path(__file__).with_name("durations.json")
RECORDED_SECONDS = 2.0
"""Tests that took less are not worth a line."""
SHARED = REPOSITORY.parent / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record-durations", action="store_true", help=f"Write how long each test took to tests/{DURATIONS.name}."
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuses to record a part of the tests as if it were the whole."""
    part = config.args_source is pytest.Config.ArgsSource.ARGS or config.option.keyword or config.option.markexpr
    if config.getoption("--record-durations") and part:
        raise pytest.UsageError("--record-durations is given with a choice of tests; expected the whole run.")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leaves out, where there is no Ray, as on a machine that is there for its GPU, all files without tests for one."""
    if find_spec("ray") or not collection_path.name.startswith("test_"):
        return None
    return "pytest.mark.gpu" not in collection_path.read_text() or None


def recorded_seconds() -> dict[str, float]:
    """The seconds of the tests that took some, by their names, in the run that was recorded last."""
    seconds: dict[str, float] = json.loads(DURATIONS.read_text())["seconds"] if DURATIONS.exists() else {}
    return seconds


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts files that take long first, so that processes which share the tests end at about the same time."""
    of_file: Counter[str] = Counter()
    for name, seconds in recorded_seconds().items():
        of_file[name.partition("::")[0]] += seconds
    items.sort(key=lambda item: -of_file[item.nodeid.partition("::")[0]])


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Writes the seconds of each test itself; what it shares with others, such as a Ray, is not its own."""
    # Processes that run tests for another one know their own share only.
    if not session.config.getoption("--record-durations") or exitstatus or hasattr(session.config, "workerinput"):
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    assert reporter is not None
    calls = {report.nodeid: report.duration for report in reporter.stats.get("passed", []) if report.when == "call"}
    lasting = {name: round(seconds, 1) for name, seconds in sorted(calls.items()) if seconds >= RECORDED_SECONDS}
    DURATIONS.write_text(json.dumps({"processor": computed_by("cpu"), "seconds": lasting}, indent=1) + "\n")


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
