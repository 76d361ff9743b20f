"""Dated results of benchmarks: one JSON object a line, with the commit and the hardware that they were measured on."""

import datetime
import json
from pathlib import Path
from typing import Any

from pipeline.errors import StorageError
from pipeline.provenance import commit, computed_by, hardware

RESULTS = Path(__file__).resolve().parents[2] / "tests" / "benchmarks" / "results.jsonl"


def require_place(path: Path = RESULTS) -> None:
    """Checks that a record can be kept, which is better known before hours of measurements than after.

    Raises:
        StorageError: The file's folder does not exist: the package is installed, or was submitted, without the tests.
    """
    if not path.parent.is_dir():
        raise StorageError(
            f"{path} cannot be written; expected its folder to exist. Run from a clone, or leave out --record."
        )


def append_record(result: dict[str, Any], path: Path = RESULTS) -> dict[str, Any]:
    """Appends `result` with date, commit, hardware and versions to `path`; returns the whole line."""
    line = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        **hardware(),
        # A GPU may be there by its name, a CPU with its threads.
        "computed_by": computed_by("cpu" if str(result.get("device", "cpu")).startswith("cpu") else "cuda"),
    }
    line |= result
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    return line
