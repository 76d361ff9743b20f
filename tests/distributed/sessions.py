"""A job that only starts and ends a session, in a process that inherits no setting of Ray's."""

import os
import subprocess
import sys

JOB = """
from pipeline.command_line import plain_endings
with plain_endings():
    from pipeline.distributed.session import session
    with session():
        pass
"""


def start_session(**variables: str) -> subprocess.Popen[str]:
    """Starts the job."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.Popen(
        [sys.executable, "-c", JOB],
        env=environment | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_session(**variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the job to its end."""
    with start_session(**variables) as job:
        try:
            output, errors = job.communicate(timeout=120)
        finally:
            job.kill()
    return subprocess.CompletedProcess(job.args, job.returncode, output, errors)
