"""Measures one part of the pipeline against its slow, obvious reference, and checks that both agree.

    python jobs/benchmark.py planner --setting hopper --episodes 1 --device cpu
    python jobs/benchmark.py train --setting hopper
    python jobs/benchmark.py prepare
    python jobs/benchmark.py evaluate

The last line of standard output is one JSON object.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

from pipeline.benchmarks.planner import PlannerBenchmark
from pipeline.benchmarks.planner import run as run_planner
from pipeline.command_line import parse, plain_endings
from pipeline.configuration import Config
from pipeline.errors import ConfigError

BENCHMARKS: dict[str, tuple[Config, Callable[[Any], dict[str, Any]]]] = {
    "planner": (PlannerBenchmark(), run_planner),
}


def main() -> None:
    """Runs the benchmark that the first argument names."""
    name, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if name in ("-h", "--help"):
        print(__doc__)
        return
    if name not in BENCHMARKS:
        raise ConfigError(f"benchmark is {name!r}; expected one of {', '.join(BENCHMARKS)}.")
    defaults, run = BENCHMARKS[name]
    print(json.dumps(run(parse(defaults, __doc__, arguments))))


if __name__ == "__main__":
    with plain_endings():
        main()
