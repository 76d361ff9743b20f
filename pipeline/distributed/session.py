"""Starts Ray in place, or joins the cluster that RAY_ADDRESS names."""

import contextlib
import os
import signal
import socket
from collections.abc import Iterator

import ray
import ray.data

from pipeline.distributed import QUIET
from pipeline.distributed.shared_storage import require_shared
from pipeline.errors import ClusterError

CONNECT_SECONDS = 10.0


@contextlib.contextmanager
def session(runs: str | None = None) -> Iterator[None]:
    """Gives a running Ray for the length of a `with` block.

    In place: a cluster of this machine's CPUs and GPUs, bound to loopback, ended with the block. With RAY_ADDRESS set
    (as inside `ray job submit`): joins that cluster and leaves it running. Inside another session: that one.

    Args:
        runs: The configured folder of the runs, which all nodes of a cluster that is joined must see; None asks nobody.

    Raises:
        ClusterError: RAY_ADDRESS names a cluster that does not answer, or that wants another token; or its nodes do not
            see `runs`.
        StorageError: `runs` cannot be written.
    """
    if ray.is_initialized():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    _start()
    if callable(handler):
        # Ray takes SIGTERM for itself and ends the process at once; the job's own handler keeps what is done.
        signal.signal(signal.SIGTERM, handler)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Ray Data yields blocks in the order in which they finish unless told otherwise; ours must not depend on timing.
    context.execution_options.preserve_order = True
    try:
        if runs is not None and joins_cluster():
            require_shared(runs)
        yield
    finally:
        ray.shutdown()


def joins_cluster() -> bool:
    """Whether this job joins a cluster of several nodes, or of nodes that are started on demand: RAY_ADDRESS is set."""
    return "RAY_ADDRESS" in os.environ


def _start() -> None:
    address = os.environ.get("RAY_ADDRESS")
    if address is None:
        ray.init(address="local", logging_level="warning")
        return
    try:
        _check_reachable(address)
        # Processes of a running cluster do not inherit this driver's environment.
        ray.init(logging_level="warning", runtime_env={"env_vars": QUIET})
    except (OSError, RuntimeError, ray.exceptions.RaySystemError) as error:
        raise ClusterError(
            f"RAY_ADDRESS is {address!r}; expected a running Ray cluster ({error}). "
            "Unset it to start Ray in place; with token authentication on, set RAY_AUTH_MODE=token."
        ) from error


def _check_reachable(address: str) -> None:
    """Raises OSError where nobody listens at `address`; Ray's own core ends the whole process there."""
    host, separator, port = address.rpartition("://")[2].rpartition(":")
    if separator and port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
