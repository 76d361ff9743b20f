"""Whether RAY_ADDRESS names a cluster that this process can join, found out before it does."""

import re
import subprocess
import sys
from pathlib import Path

from pipeline.distributed import rehearsal
from pipeline.errors import ClusterError

JOIN_SECONDS = 60.0
"""Joining takes 1.3 s, the import of Ray included. Ray itself gives up after 160 s."""

_HOST_AND_PORT = re.compile(r"([^\s:/\[\]]+|\[[0-9A-Fa-f:.]+\]):\d{1,5}")


def require_cluster(address: str) -> str:
    """Checks what RAY_ADDRESS says, and lets another process join and leave that cluster first.

    Returns:
        The cluster's address as all of its nodes know it, where `address` may say 127.0.0.1.

    Raises:
        ClusterError: It names none, or none that lets this process in within `JOIN_SECONDS`.
    """
    _require_host_and_port(address)
    try:
        # -P: or the modules beside that script would be found as top-level ones.
        done = subprocess.run(
            [sys.executable, "-P", str(Path(rehearsal.__file__))],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=JOIN_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise not_joined(address, f"it could not be joined within {JOIN_SECONDS:g} s") from None
    last = done.stdout.rstrip().rpartition("\n")[2]
    if done.returncode:
        raise not_joined(address, last or f"Ray ended the process that tried, with status {done.returncode}")
    return last


def not_joined(address: str, reason: str) -> ClusterError:
    """Returns the error of a job whose cluster does not take it."""
    return ClusterError(
        f"RAY_ADDRESS is {address!r}; expected a running Ray cluster that lets this process in. Where it wants a "
        "token, set RAY_AUTH_MODE=token, and give the token in RAY_AUTH_TOKEN or ~/.ray/auth_token; unset "
        f"RAY_ADDRESS to start Ray in place. ({reason})"
    )


def _require_host_and_port(address: str) -> None:
    """Raises ClusterError for what is no address, and for what Ray takes as one and this pipeline does not."""
    if address == "auto" or _HOST_AND_PORT.fullmatch(address):
        return
    if address == "local":
        raise ClusterError(
            "RAY_ADDRESS is 'local', which would start a cluster that listens beyond this machine; expected the "
            "address of a running cluster, host:port. Unset it to start Ray in place."
        )
    if address.startswith("ray://"):
        raise ClusterError(
            f"RAY_ADDRESS is {address!r}, an address of Ray Client; expected that of the cluster itself, host:port: "
            "the job's driver writes to storage that the nodes see, so it runs among them. Use `ray job submit`."
        )
    if "://" in address:
        raise ClusterError(
            f"RAY_ADDRESS is {address!r}, a URL as `ray job submit` takes it; expected the address of the cluster "
            "itself, host:port, which `ray start` prints. Give the URL to `ray job submit --address`, or unset "
            "RAY_ADDRESS to start Ray in place."
        )
    raise ClusterError(
        f"RAY_ADDRESS is {address!r}; expected the address of a running cluster, host:port, which `ray start` prints "
        "(its port is 6379 unless told otherwise). Unset it to start Ray in place."
    )
