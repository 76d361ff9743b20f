"""Tries planning settings with Ray Tune, one row per setting.

From the repository's root:

    python jobs/sweep.py --config configs/quickstart.yaml
    python jobs/sweep.py --config configs/quickstart.yaml --sweep.episodes 4
"""

from pipeline.command_line import job
from pipeline.experiment import Experiment
from pipeline.run_folder import RunFolder


def main(experiment: Experiment, run: RunFolder) -> None:
    """Sweeps; runs only the episodes that are missing."""
    from pipeline.distributed.session import session
    from pipeline.distributed.sweep import sweep

    with session(experiment.runs):
        sweep(experiment, run)


if __name__ == "__main__":
    job(main, __doc__)
