"""Whether all nodes of a cluster see the folder that a job writes to.

The job's driver leaves a file there, and whoever works for it looks for that file before it does anything: nodes may
start at any time, so there is nobody to be asked in advance.
"""

import contextlib
import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

from pipeline.beside import Beside, at_the_end
from pipeline.errors import ClusterError, StorageError

PROBE = "TRAJECTORY_PIPELINE_PROBE"
"""Environment variable of a cluster's processes: the file that the driver left."""


@contextlib.contextmanager
def shared(runs: str) -> Iterator[dict[str, str]]:
    """Leaves a file in `--runs` while the block runs, and yields the environment in which workers look for it.

    Args:
        runs: As configured.

    Raises:
        ClusterError: It is not absolute: a submitted job's relative paths lie in a copy that goes with the job.
        StorageError: It cannot be written.
    """
    folder = Path(runs)
    if not folder.is_absolute():
        raise ClusterError(
            f"runs is {runs!r}; expected the absolute path of a folder on storage that all nodes of the cluster share: "
            "a relative one lies in the working directory, which other nodes do not have and which goes with a "
            "submitted job. Mount such storage and give --runs /its/path."
        )
    # A name of its own: a node's own disk must not have it from an earlier job, whose driver ran there.
    probe = folder / f".probe-{uuid.uuid4().hex}"
    try:
        Beside().do(lambda: _leave(probe), f"Looking whether {folder} can be written")
    except OSError as error:
        raise StorageError(f"runs is {runs!r}; expected a folder that can be written ({error}).") from error
    try:
        yield {PROBE: str(probe)}
    finally:
        at_the_end(lambda: probe.unlink(missing_ok=True), f"Removing {probe}")


def _leave(probe: Path) -> None:
    probe.parent.mkdir(parents=True, exist_ok=True)
    probe.touch()


def require_shared() -> None:
    """Checks that this process, which works for a job on a cluster, sees what the job's driver wrote.

    Called first by every actor, task and worker; a process of Ray in place has nothing to look for.

    Raises:
        StorageError: It does not; the message names the node.
    """
    probe = os.environ.get(PROBE)
    if probe is None or Path(probe).exists():
        return
    raise StorageError(
        f"runs is '{Path(probe).parent}'; expected storage that all nodes of the cluster share, but the node "
        f"{socket.gethostname()} does not see a file that this job wrote there. Mount the same storage on every node "
        "(cluster.yaml shows how) and give its path as --runs."
    )
