"""Writes the report of one run, or the table of several.

    python jobs/report.py --config configs/quickstart.yaml      # runs/quickstart/report.html
    python jobs/report.py --name quickstart                     # the same
    python jobs/report.py --compare quickstart reacher          # runs/comparison.{md,tex,html}

The table has data sets down, and the behaviour data and the rows of the runs' tables across. Runs that differ only in
their seed are trainings of one setting: their interval covers trainings and episodes. A name with a slash is the path
of a run's folder; the table goes beside the first run, or where --output says.
"""

import argparse
import sys
from pathlib import Path

from pipeline.command_line import parse_experiment, plain_endings
from pipeline.experiment import Experiment
from pipeline.options import place
from pipeline.run_folder import RunFolder


def main(arguments: list[str]) -> None:
    """Reports the run that `--config` or `--name` names, or compares those that `--compare` names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", action="append", help="YAML file of a run's settings; its name counts.")
    parser.add_argument("--name", help="Name of a run.")
    parser.add_argument("--runs", type=place, default="runs", help="Folder that holds the runs' folders.")
    parser.add_argument("--compare", nargs="+", type=place, metavar="RUN", help="Runs to compare.")
    parser.add_argument("--output", type=place, help="Path of the table without its ending (.md, .tex, .html).")
    known, _ = parser.parse_known_args(arguments)
    if bool(known.compare) == bool(known.config or known.name):
        parser.error("expected --config or --name of the run to report on, or --compare with several runs.")
    _compare(parser.parse_args(arguments)) if known.compare else _report_on(parse_experiment(__doc__, arguments))


def _report_on(experiment: Experiment) -> None:
    from pipeline.evaluation.summary import read_summary
    from pipeline.reporting.report import report
    from pipeline.reporting.table import print_summary

    run = RunFolder(Path(experiment.runs).resolve() / experiment.name)
    if run.summary.exists():
        print_summary(read_summary(run.summary))
    report(run, experiment.data.output)


def _compare(options: argparse.Namespace) -> None:
    from pipeline.reporting.markup import write_comparison

    folders = [Path(name) if "/" in name else Path(options.runs) / name for name in options.compare]
    stem = Path(options.output) if options.output else folders[0].resolve().parent / "comparison"
    print(write_comparison(folders, stem))
    print(f"report    {stem}.html, .tex and .md")


if __name__ == "__main__":
    with plain_endings():
        main(sys.argv[1:])
