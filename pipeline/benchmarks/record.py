"""Dated results of benchmarks: one JSON object a line, with the commit and the hardware that they were measured on."""

import datetime
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from pipeline.configuration import Config
from pipeline.errors import StorageError
from pipeline.reporting.provenance import processor

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "tests" / "benchmarks" / "results.jsonl"


class BenchmarkConfig(Config):
    """What every benchmark can be told."""

    record: bool = Field(False, description="Append the result to tests/benchmarks/results.jsonl.")


def append_record(result: dict[str, Any], path: Path = RESULTS) -> dict[str, Any]:
    """Appends `result` with date, commit, hardware and versions to `path`; returns the whole line.

    Raises:
        StorageError: The file's folder does not exist: the package is installed without its repository.
    """
    if not path.parent.is_dir():
        raise StorageError(
            f"{path} cannot be written; expected its folder to exist. Run from a clone, or leave out --record."
        )
    line = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        **hardware(),
    }
    line |= result
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    return line


def hardware() -> dict[str, Any]:
    """Returns what a measurement depends on besides the code."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": processor(), "cores": os.cpu_count(), "gpu": gpu, "torch": torch.__version__}


def _commit() -> str | None:
    """The checked-out commit, with a plus sign where files differ from it; None outside a repository."""
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty=+", "--abbrev=12"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
