"""Starts Ray in place, or joins the cluster that RAY_ADDRESS names."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import ray
import ray.data

from pipeline.distributed import QUIET, cluster_address
from pipeline.distributed.joining import not_joined, require_cluster
from pipeline.distributed.shared_storage import shared
from pipeline.distributed.temporary import ray_folder
from pipeline.errors import ClusterError


@contextlib.contextmanager
def session(runs: str | None = None) -> Iterator[None]:
    """Gives a running Ray for the length of a `with` block.

    In place: a cluster of this machine's CPUs and GPUs, bound to loopback, ended with the block. With RAY_ADDRESS set
    (as inside `ray job submit`): joins that cluster and leaves it running. Inside another session: that one.

    Args:
        runs: The configured folder of the runs, which all nodes of a cluster that is joined must see: they look for a
            file that is there while the block runs (`require_shared`). None for a session that writes nothing.

    Raises:
        ClusterError: RAY_ADDRESS names no cluster that answers and takes this token; or `runs` is not absolute there;
            or Ray in place does not start.
        StorageError: `runs` cannot be written, or Ray in place finds no folder for its sockets (`ray_folder`).
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
        _start_in_place(ray_folder())
        return
    # Whoever asks Ray about its cluster would else look for one among all processes of the node.
    known = {"RAY_ADDRESS": require_cluster(address)}
    try:
        ray.init(logging_level="warning", runtime_env={"env_vars": QUIET | known | variables})
    except (OSError, RuntimeError, ray.exceptions.RayError) as error:
        raise not_joined(address, str(error).partition(". ")[0]) from error


def _start_in_place(folder: Path) -> None:
    try:
        ray.init(address="local", logging_level="warning", _temp_dir=str(folder))
    except Exception as error:  # Ray raises a bare one where a process of it does not come up
        raise ClusterError(
            f"Ray did not start in place ({str(error).partition('. ')[0]}); expected its processes to answer within a "
            f"minute or two. Their logs, in {folder}/session_latest/logs, say why they did not; run the same command "
            "again where the machine was only busy."
        ) from error
