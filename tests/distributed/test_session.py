"""Ray in place is private: tokens on, loopback only, nothing in the home folder."""

import os
from pathlib import Path

import pytest
import ray

from pipeline.distributed.session import joins_cluster, session
from tests.distributed.processes import descendants
from tests.distributed.sessions import run_session

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
