"""The only package that imports Ray.

Importing it sets the environment switches that Ray 2.60 reads at its own import, so this package must come first; every
module that needs Ray lies in it. A user's own environment always wins.
"""

import os
import secrets

_EVERYWHERE = {
    # Without these, a stage prints hundreds of lines that are not ours, and prints of train workers appear twice.
    # At ERROR Ray Data prints the traceback of what it raises too.
    "RAY_DATA_LOG_LEVEL": "CRITICAL",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_DEDUP_LOGS": "0",
    "PYTHONWARNINGS": "ignore::DeprecationWarning",
    # The default, one poll in 2 s, throttles short epochs and loses a reported checkpoint when the worker dies.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # How long one attempt to place the workers takes (60 by default). While it runs nobody looks at the time or at a
    # request to stop, and elastic training asks for workers on nodes that are gone.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "5",
}

QUIET = _EVERYWHERE | {
    # An actor of 115 MiB that looks for nodes that are drained.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1",
}
"""What the driver and all its workers get on a cluster that it joins."""

_IN_PLACE = _EVERYWHERE | {
    # A cluster started in place is this process's own: a token that nobody else knows (and no file in the home
    # folder), every socket on 127.0.0.1 instead of all interfaces.
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Here there is one node, and nobody drains it.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


def cluster_address() -> str | None:
    """Returns RAY_ADDRESS, the cluster that this process joins; None where it is unset or empty."""
    return os.environ.get("RAY_ADDRESS") or None


for _name, _value in (QUIET if cluster_address() else _IN_PLACE).items():
    os.environ.setdefault(_name, _value)
