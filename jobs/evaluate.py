"""Runs evaluation episodes of every row of the table and prints the table.

From the repository's root:

    python jobs/evaluate.py --config configs/quickstart.yaml
    python jobs/evaluate.py --config configs/quickstart.yaml --evaluation.episodes 50
"""

from pipeline.command_line import job
from pipeline.experiment import Experiment
from pipeline.run_folder import RunFolder


def main(experiment: Experiment, run: RunFolder) -> None:
    """Evaluates; runs only the episodes that are missing."""
    from pipeline.distributed.evaluate import evaluate
    from pipeline.distributed.session import session

    with session(experiment.runs):
        evaluate(experiment, run)


if __name__ == "__main__":
    job(main, __doc__)
