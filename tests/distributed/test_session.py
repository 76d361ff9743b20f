"""Ray in place is private: tokens on, loopback only, nothing in the home folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from pipeline.distributed.session import session

pytestmark = pytest.mark.ray

LISTENING = "0A"
LOOPBACK = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")


def descendants(root: int) -> set[int]:
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (ValueError, OSError):  # not a process, or one that just ended
            continue
    found = {root}
    while new := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= new
    return found


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
    addresses = listening_addresses(descendants(os.getpid()))
    assert addresses, "found no socket of Ray at all"
    assert addresses <= set(LOOPBACK)


def test_a_session_inside_a_session_is_the_same_one(ray_session: None) -> None:
    job = ray.get_runtime_context().get_job_id()
    with session():
        assert ray.get_runtime_context().get_job_id() == job
    assert ray.is_initialized()


def test_a_session_started_in_place_writes_nothing_into_the_home_folder(ray_session: None) -> None:
    assert not (Path(os.environ["HOME"]) / ".ray" / "auth_token").exists()


def test_an_address_where_no_cluster_is_ends_in_one_sentence() -> None:
    code = (
        "from pipeline.command_line import plain_endings\n"
        "with plain_endings():\n"
        "    from pipeline.distributed.session import session\n"
        "    with session():\n"
        "        pass\n"
    )
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 2, run.stderr
    assert "RAY_ADDRESS is '127.0.0.1:1'; expected a running Ray cluster" in run.stderr
