"""Collects behaviour data in the environment and writes a Minari dataset.

From the repository's root:

    python jobs/collect.py --config configs/quickstart.yaml
    python jobs/collect.py --config configs/quickstart.yaml --collect.steps 1000000
"""

from pipeline.command_line import job
from pipeline.experiment import Experiment
from pipeline.run_folder import RunFolder


def main(experiment: Experiment, run: RunFolder) -> None:
    """Collects, or goes on where an interrupted collection stopped."""
    from pipeline.distributed.collect import collect
    from pipeline.distributed.session import session

    with session(experiment.runs):
        collect(experiment, run)


if __name__ == "__main__":
    job(main, __doc__)
