"""Joins the cluster that RAY_ADDRESS names and leaves it again: a script, for a process that can be ended.

Ray tries a port that is not its own for minutes and hears no signal meanwhile, and its core ends the process where
nobody listens. So a job lets this one go first, with a limit (`pipeline.distributed.joining`).

Its last line says why the cluster cannot be joined, where it ends with status 1; or gives the cluster's address as all
nodes know it, where it ends with 0.
"""

import os
import socket
import sys

ANSWER_SECONDS = 10.0

GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""How a client of HTTP/2, which gRPC speaks, begins: a fixed text and its settings, of which there are none."""

SETTINGS = 4
"""What a server answers with: a frame of this type, named in its fourth byte."""


def main() -> None:
    """Greets the server, then joins and leaves as a job would."""
    address = os.environ["RAY_ADDRESS"]
    try:
        # A server with TLS answers nobody who does not begin with it; "auto" is for Ray to find out.
        if ":" in address and os.environ.get("RAY_USE_TLS", "0") == "0":
            _greet(address)
        import ray

        ray.init(logging_level="critical", log_to_driver=False)
        print(ray.get_runtime_context().gcs_address)
        ray.shutdown()
    except Exception as error:  # whatever it is, it is told by the job, in words that say what to do
        print(str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__)
        sys.exit(1)


def _greet(address: str) -> None:
    """Checks that what listens at `address` speaks HTTP/2.

    Raises:
        OSError: Nobody listens there, or somebody else does.
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS) as connection:
            connection.sendall(GREETING)
            answer = connection.recv(9)
    except TimeoutError:
        raise TimeoutError(f"nobody answered there within {ANSWER_SECONDS:g} s") from None
    if answer[3:4] != bytes((SETTINGS,)):
        raise ConnectionError(
            f"what listens there answered {answer!r}, so it is not Ray's, whose port is 6379 unless `ray start` was "
            "told otherwise: 8265 is the dashboard's"
        )


if __name__ == "__main__":
    main()
