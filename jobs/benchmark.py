"""Measures one part of the pipeline against its slow, obvious reference, and checks that both agree.

From the repository's root; --help after the name lists its options:

    python jobs/benchmark.py planner --setting hopper --episodes 1 --device cpu
    python jobs/benchmark.py planner --sweep
    python jobs/benchmark.py train --method decision_transformer
    python jobs/benchmark.py act --slots 10
    python jobs/benchmark.py prepare
    python jobs/benchmark.py evaluate

The last line of standard output is one JSON object; --record keeps it in tests/benchmarks/results.jsonl.
"""

import json
import sys
from importlib import import_module

from pipeline.benchmarks.options import BENCHMARKS
from pipeline.command_line import plain_endings
from pipeline.errors import ConfigError
from pipeline.options import parse


def main(arguments: list[str]) -> None:
    """Runs the benchmark that the first argument names."""
    name = arguments[0] if arguments else ""
    if name in ("-h", "--help"):
        print(__doc__)
        return
    if name not in BENCHMARKS:
        raise ConfigError(f"benchmark is {name!r}; expected one of {', '.join(BENCHMARKS)}.")
    options = parse(BENCHMARKS[name](), __doc__, arguments[1:])
    # Imported when the options are right, and only the one that is named: planner and train run where there is no Ray.
    from pipeline.benchmarks.record import append_record, require_place

    if options.record:
        require_place()
    result = import_module(f"pipeline.benchmarks.{name}").run(options)
    print(json.dumps(result))
    if options.record:
        append_record(result)


if __name__ == "__main__":
    with plain_endings():
        main(sys.argv[1:])
