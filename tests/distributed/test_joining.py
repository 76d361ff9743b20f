"""What RAY_ADDRESS may say, and what may listen there: everything else ends a job in one sentence."""

import contextlib
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import ray

from pipeline.distributed import joining, rehearsal
from pipeline.distributed.joining import require_cluster
from pipeline.distributed.session import session
from pipeline.errors import ClusterError
from tests.distributed.sessions import run_session, start_session

EMPTY_SETTINGS = bytes((0, 0, 0, rehearsal.SETTINGS, 0, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("local", "which would start a cluster that listens beyond this machine; expected the address of a running"),
        ("ray://127.0.0.1:10001", "an address of Ray Client; expected that of the cluster itself"),
        ("http://127.0.0.1:8265", "a URL as `ray job submit` takes it; expected the address of the cluster itself"),
    ],
)
def test_an_address_of_another_kind_is_refused(address: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ClusterError, match=f"^RAY_ADDRESS is '{address}', {message}"), session():
        pytest.fail("it joined something")


@pytest.mark.parametrize(
    "address",
    [" ", "127.0.0.1", "head:", ":6379", "head:port", "head:6379 ", "head:6379,head:6380", "::1:6379", "Auto"],
)
def test_what_is_not_host_and_port_is_refused(address: str) -> None:
    with pytest.raises(ClusterError, match=f"^RAY_ADDRESS is '{address}'; expected the address of a running cluster, "):
        require_cluster(address)


@pytest.fixture
def web() -> Iterator[str]:
    """The address of a plain web server."""
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@contextlib.contextmanager
def listening(answer: bytes = b"") -> Iterator[tuple[str, threading.Semaphore]]:
    """Gives the address of a server that says `answer` to everybody and no more, and counts those who came."""
    came = threading.Semaphore(0)
    with socket.create_server(("127.0.0.1", 0)) as server, contextlib.ExitStack() as connections:

        def serve() -> None:
            with contextlib.suppress(OSError):  # closed at the end
                while True:
                    connections.enter_context(connection := server.accept()[0])
                    connection.sendall(answer)
                    came.release()

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}", came
        server.shutdown(socket.SHUT_RDWR)


def refused(address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Returns why the cluster at `address` cannot be joined."""
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ClusterError, match=f"^RAY_ADDRESS is '{address}'; expected a running Ray cluster ") as told:
        require_cluster(address)
    return str(told.value).rpartition("to start Ray in place. ")[2]


def test_a_web_server_is_told_from_a_cluster_by_its_answer(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    message = refused(web, monkeypatch)
    assert message.startswith("(what listens there answered b'<!DOCTYPE', so it is not Ray's, whose port is 6379 ")


@pytest.mark.slow
def test_who_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as (address, _):
        assert refused(address, monkeypatch) == "(nobody answered there within 10 s)"


def test_nobody_at_the_address_is_told_as_the_system_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused("127.0.0.1:1", monkeypatch) == "([Errno 111] Connection refused)"
    assert refused("nobody.invalid:6379", monkeypatch).startswith("([Errno -")


def test_joining_has_a_limit_whatever_ray_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "JOIN_SECONDS", 5.0)
    with listening(EMPTY_SETTINGS) as (address, came):
        assert refused(address, monkeypatch) == "(it could not be joined within 5 s)"
        assert came.acquire(timeout=0), "it was not even greeted"


def test_a_job_that_ends_without_a_cluster_prints_one_sentence(web: str) -> None:
    run = run_session(RAY_ADDRESS=web)
    assert run.returncode == 2, run.stderr
    assert run.stderr.startswith(f"error: RAY_ADDRESS is '{web}'; expected a running Ray cluster that lets ")
    assert len(run.stderr.splitlines()) == 1


def test_sigterm_ends_a_job_that_tries_to_join() -> None:
    with listening(EMPTY_SETTINGS) as (address, came):
        job = start_session(RAY_ADDRESS=address, RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0")
        for _ in ("the greeting", "Ray itself"):
            assert came.acquire(timeout=60)
        job.send_signal(signal.SIGTERM)
        _, errors = job.communicate(timeout=30)
    assert job.returncode == 143
    assert "what is done is kept" in errors


JOINED = """
from pipeline.distributed.session import session
import os, ray
with session():
    print(ray.get(ray.remote(lambda: os.environ["RAY_ADDRESS"]).remote()))
"""


@pytest.mark.ray
def test_a_running_cluster_is_joined_and_its_processes_know_its_address(ray_session: None) -> None:
    address = ray.get_runtime_context().gcs_address
    port = address.rpartition(":")[2]
    run = subprocess.run(
        [sys.executable, "-c", JOINED],
        env={**os.environ, "RAY_ADDRESS": f"localhost:{port}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.stdout == f"{address}\n", run.stderr
