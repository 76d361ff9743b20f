"""Writes a run's report: one HTML file that holds everything and opens offline."""

from collections.abc import Callable
from pathlib import Path

from pipeline.beside import Beside
from pipeline.configuration import write_text_atomically
from pipeline.errors import RunFolderError
from pipeline.reporting.page import Section, render
from pipeline.reporting.record import RunRecord
from pipeline.reporting.sections import (
    configuration_section,
    data_section,
    evaluation_section,
    provenance_section,
    result_section,
    sweep_section,
    target_section,
    training_section,
    video_section,
)
from pipeline.reporting.sections_model import attention_section, plan_section
from pipeline.run_folder import RunFolder

SECTIONS: tuple[Callable[[RunRecord], Section | None], ...] = (
    result_section,
    data_section,
    training_section,
    evaluation_section,
    target_section,
    plan_section,
    attention_section,
    sweep_section,
    video_section,
    configuration_section,
    provenance_section,
)


def write_report(run: RunFolder, shards: str | None = None) -> Path:
    """Writes `report.html` from whatever the run's stages have left so far.

    Args:
        run: The folder.
        shards: `data.output` of who asks; shards on an object store are read where it names them.

    Returns:
        Its path.

    Raises:
        RunFolderError: There is no such run.
        PipelineError: A file of the run is broken; the message names it.
    """
    if not run.root.is_dir():
        raise RunFolderError(
            f"{run.root} is not there; expected the folder of a run. List them with: ls {run.root.parent}"
        )
    record = RunRecord(run, shards)
    environment = (record.config or {}).get("environment", {}).get("id", "")
    sections = [section for section in (make(record) for make in SECTIONS) if section is not None]
    write_text_atomically(run.report, render(run.root.name, environment, sections))
    return run.report


def report(run: RunFolder, shards: str | None = None) -> None:
    """Writes the report and prints where it lies; arguments as of `write_report`.

    Raises:
        PipelineError: As `write_report` says.
    """
    path = Beside(patient=True).do(lambda: write_report(run, shards), f"Writing {run.report} from what lies beside it")
    print(f"report    {path}")
