"""Ray in place is private: tokens on, loopback only, nothing in the home folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from pipeline.distributed.session import joins_cluster, session
from pipeline.errors import ClusterError
from tests.distributed.processes import descendants

pytestmark = pytest.mark.ray

LISTENING = "0A"
LOOPBACK = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")


def listening_addresses(pids: set[int]) -> set[str]:
    sockets = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                sockets.add(str(link.readlink()))
            except OSError:  # closed meanwhile
                continue
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and f"socket:[{fields[9]}]" in sockets:
                addresses.add(fields[1].split(":")[0])
    return addresses


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="lists sockets from /proc, which only Linux has")
def test_no_socket_of_ray_is_open_beyond_loopback(ray_session: None) -> None:
    addresses = listening_addresses({os.getpid(), *descendants(os.getpid(), "")})
    assert addresses, "found no socket of Ray at all"
    assert addresses <= set(LOOPBACK)


def test_a_session_inside_a_session_is_the_same_one(ray_session: None) -> None:
    job = ray.get_runtime_context().get_job_id()
    with session():
        assert ray.get_runtime_context().get_job_id() == job
    assert ray.is_initialized()


JOB = """
from pipeline.command_line import plain_endings
with plain_endings():
    from pipeline.distributed.session import session
    with session():
        pass
"""


def run_session(**variables: str) -> subprocess.CompletedProcess[str]:
    """Starts and ends a session in a process that inherits no setting of Ray's."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-c", JOB],
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
def test_a_session_started_in_place_writes_nothing_into_the_home_folder(tmp_path: Path) -> None:
    # An empty address is none: as a cluster's it would leave Ray open to the network, with a token in the home folder.
    run = run_session(HOME=str(tmp_path), RAY_ADDRESS="")
    assert run.returncode == 0, run.stderr
    assert list(tmp_path.rglob("*")) == []


def test_an_empty_address_joins_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert not joins_cluster()
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert joins_cluster()


def test_an_address_where_nobody_listens_ends_a_job_in_one_sentence() -> None:
    run = run_session(RAY_ADDRESS="127.0.0.1:1")
    assert run.returncode == 2, run.stderr
    assert run.stderr.startswith("error: RAY_ADDRESS is '127.0.0.1:1'; expected a running Ray cluster")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("local", "which would start a cluster that listens beyond this machine; expected the address of a running"),
        ("ray://127.0.0.1:10001", "an address of Ray Client; expected that of the cluster itself"),
    ],
)
def test_an_address_that_is_none_of_a_cluster_is_refused(
    address: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ClusterError, match=f"^RAY_ADDRESS is '{address}', {message}"), session():
        pytest.fail("it joined something")
