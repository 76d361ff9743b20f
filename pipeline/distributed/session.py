"""Starts Ray in place, or joins the cluster that RAY_ADDRESS names."""

import contextlib
import signal
import socket
from collections.abc import Iterator

import ray
import ray.data

from pipeline.distributed import QUIET, cluster_address
from pipeline.distributed.shared_storage import shared
from pipeline.errors import ClusterError

CONNECT_SECONDS = 10.0


@contextlib.contextmanager
def session(runs: str | None = None) -> Iterator[None]:
    """Gives a running Ray for the length of a `with` block.

    In place: a cluster of this machine's CPUs and GPUs, bound to loopback, ended with the block. With RAY_ADDRESS set
    (as inside `ray job submit`): joins that cluster and leaves it running. Inside another session: that one.

    Args:
        runs: The configured folder of the runs, which all nodes of a cluster that is joined must see: they look for a
            file that is there while the block runs (`require_shared`). None for a session that writes nothing.

    Raises:
        ClusterError: RAY_ADDRESS names no cluster that answers and takes this token; or `runs` is not absolute there.
        StorageError: `runs` cannot be written.
    """
    if ray.is_initialized():
        yield
        return
    with contextlib.ExitStack() as stack:
        variables = stack.enter_context(shared(runs)) if runs is not None and joins_cluster() else {}
        handler = signal.getsignal(signal.SIGTERM)
        _start(variables)
        stack.callback(ray.shutdown)
        if callable(handler):
            # Ray takes SIGTERM for itself and ends the process at once; the job's own handler keeps what is done.
            signal.signal(signal.SIGTERM, handler)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        # Ray Data yields blocks in the order in which they finish unless told otherwise; ours must not depend on that.
        context.execution_options.preserve_order = True
        yield


def joins_cluster() -> bool:
    """Whether this job joins a cluster of several nodes, or of nodes that are started on demand: RAY_ADDRESS is set."""
    return cluster_address() is not None


def _start(variables: dict[str, str]) -> None:
    """Starts Ray, or joins it; `variables` go to the processes of a cluster, which do not inherit this one's."""
    address = cluster_address()
    if address is None:
        ray.init(address="local", logging_level="warning")
        return
    _check_kind(address)
    try:
        _check_reachable(address)
        ray.init(logging_level="warning", runtime_env={"env_vars": QUIET | variables})
    except (OSError, RuntimeError, ray.exceptions.RayError) as error:
        raise ClusterError(
            f"RAY_ADDRESS is {address!r}; expected a running Ray cluster that lets this process in. Where it wants a "
            "token, set RAY_AUTH_MODE=token, and give the token in RAY_AUTH_TOKEN or ~/.ray/auth_token; unset "
            f"RAY_ADDRESS to start Ray in place. ({str(error).partition('. ')[0]})"
        ) from error


def _check_kind(address: str) -> None:
    """Raises ClusterError for what Ray takes as an address and this pipeline does not."""
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


def _check_reachable(address: str) -> None:
    """Raises OSError where nobody listens at `address`; Ray's own core ends the whole process there."""
    host, separator, port = address.rpartition("://")[2].rpartition(":")
    if separator and port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
