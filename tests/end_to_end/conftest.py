"""A cluster as a user starts one: `ray start --head`, token authentication on, loopback only."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.distributed import QUIET

BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment_without_ray() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_") and name not in QUIET}
    return kept | {"PATH": f"{BIN}:{os.environ['PATH']}"}


def wait_for_job_server(environment: dict[str, str]) -> None:
    """Waits, a minute at most, until jobs are taken: the agent that runs them starts after the node has joined."""
    command = f"ray job submit --no-wait --address {environment['DASHBOARD']} -- true"
    deadline = time.monotonic() + 60
    while True:
        run = subprocess.run(command.split(), env=environment, capture_output=True, text=True, timeout=60, check=False)
        if run.returncode == 0:
            return
        assert time.monotonic() < deadline, f"no job was taken within 60 s: {run.stderr[-500:]}"
        time.sleep(1)


@pytest.fixture(scope="session")
def cluster() -> Iterator[dict[str, str]]:
    """Starts a head node and gives the environment of somebody who may use it: address, dashboard and token."""
    # Ray's sockets lie under its temporary folder, and a unix socket's path may have 107 characters.
    folder = tempfile.mkdtemp(prefix="ray-")
    # The agent's port too: other tests' Ray holds the default one, and without its agent a node takes no jobs.
    port, dashboard, agent = free_port(), free_port(), free_port()
    environment = environment_without_ray() | {
        "HOME": folder,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_TMPDIR": folder,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    start = (
        f"ray start --head --block --num-cpus=2 --port={port} --dashboard-host=127.0.0.1 --dashboard-port={dashboard} "
        f"--dashboard-agent-listen-port={agent}"
    )
    with (Path(folder) / "start.log").open("w") as log:
        head = subprocess.Popen(start.split(), env=environment, stdout=log, stderr=log, start_new_session=True)
    environment |= {"RAY_ADDRESS": f"127.0.0.1:{port}", "DASHBOARD": f"http://127.0.0.1:{dashboard}"}
    try:
        subprocess.run(
            [sys.executable, "-c", "import ray; ray.init(logging_level='error')"],
            env=environment,
            timeout=60,
            check=True,
        )
        wait_for_job_server(environment)
        yield environment
    finally:
        # All of its processes share its session; `ray stop` would end the clusters of other people too.
        os.killpg(head.pid, signal.SIGKILL)
        head.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)
