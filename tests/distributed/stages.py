"""What the tests of collect and prepare share: experiments of a few seconds, and a job that is killed on the way."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from pipeline.experiment import Experiment
from pipeline.run_folder import RunFolder
from tests.distributed.processes import descendants, start_job, wait_for


def experiment(runs: Path, name: str, **settings: Any) -> tuple[Experiment, RunFolder]:
    """Returns an experiment of the short inverted pendulum and its run folder."""
    content = {
        "name": name,
        "runs": str(runs),
        "environment": {"id": "InvertedPendulum-v5", "max_episode_steps": 50},
        **settings,
    }
    return Experiment.model_validate(content), RunFolder(runs / name)


def files(folder: Path) -> dict[str, bytes]:
    """Returns the bytes of all files below a folder, its identity and its lock apart, which are of one place."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("_identity.yaml", ".lock")
    }


def run_and_kill(stage: str, settings: Experiment, far_enough: Callable[[], bool]) -> None:
    """Starts a stage's job and kills it, with every process of its Ray, once it is far enough."""
    config = write_config(settings)
    log = config.with_suffix(".log")
    kill(start_job(stage, "--config", str(config), log=log), far_enough, log)


def write_config(settings: Experiment) -> Path:
    """Writes the settings beside the runs and returns the file."""
    config = Path(settings.runs) / f"{settings.name}.yaml"
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    return config


def kill(job: subprocess.Popen[bytes], far_enough: Callable[[], bool], log: Path) -> None:
    """Kills a job, with every process of its Ray, once it is far enough."""
    wait_for(lambda: far_enough() or job.poll() is not None, "the job is half done", log)
    assert job.poll() is None, f"the job ended before it was killed: {log.read_text()}"
    for process in [*descendants(job.pid, ""), job.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    job.wait(timeout=60)
