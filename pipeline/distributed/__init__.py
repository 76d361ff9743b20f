"""The only package that imports Ray.

Importing it sets the environment switches that Ray 2.60 reads at its own import, so this package must come first; every
module that needs Ray lies in it. A user's own environment always wins.
"""

import os
import secrets

QUIET = {
    # Without these, a stage prints hundreds of lines that are not ours, and prints of train workers appear twice.
    "RAY_DATA_LOG_LEVEL": "ERROR",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_DEDUP_LOGS": "0",
    "PYTHONWARNINGS": "ignore::DeprecationWarning",
    # The default, one poll in 2 s, throttles short epochs and loses a reported checkpoint when the worker dies.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # An actor of 115 MiB that watches for preemption notices of cloud nodes; workers handle SIGTERM themselves.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
"""What the driver and all workers get, in place or on a cluster."""

_IN_PLACE = {
    # A cluster started in place is this process's own: a token that nobody else knows (and no file in the home
    # folder), every socket on 127.0.0.1 instead of all interfaces.
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}

for _name, _value in (QUIET if "RAY_ADDRESS" in os.environ else QUIET | _IN_PLACE).items():
    os.environ.setdefault(_name, _value)
