"""Trains a model on a run's shards.

From the repository's root:

    python jobs/train.py --config configs/quickstart.yaml
    python jobs/train.py --config configs/quickstart.yaml --training.checkpoint_minutes 5
"""

from pipeline.command_line import job
from pipeline.experiment import Experiment
from pipeline.run_folder import RunFolder


def main(experiment: Experiment, run: RunFolder) -> None:
    """Trains, or goes on where an interrupted training stopped."""
    from pipeline.distributed.session import session
    from pipeline.distributed.train import train

    with session(experiment.runs):
        train(experiment, run)


if __name__ == "__main__":
    job(main, __doc__)
