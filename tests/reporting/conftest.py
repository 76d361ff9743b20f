"""Run folders for the tests of reports."""

from pathlib import Path

import pytest

from pipeline.reporting.report import write_report
from tests.reporting.made_run import MadeRun, make_empty_run, make_run, write_sweep


@pytest.fixture
def empty_run(tmp_path: Path) -> MadeRun:
    """A run folder in which no stage has run."""
    return make_empty_run(tmp_path)


@pytest.fixture
def made_run(tmp_path: Path) -> MadeRun:
    """A run folder in which prepare, train and evaluate are done."""
    return make_run(tmp_path)


@pytest.fixture(scope="session")
def full_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run in which a sweep is done too; for tests that only look."""
    run = make_run(tmp_path_factory.mktemp("full"))
    write_sweep(run.folder)
    return write_report(run.folder)
