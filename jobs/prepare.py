"""Turns Minari datasets into shards: values to go, discretisation, Parquet, and last the manifest.

From the repository's root:

    python jobs/prepare.py --config configs/quickstart.yaml
    python jobs/prepare.py --config configs/quickstart.yaml --data.num_bins 50
"""

from pipeline.command_line import job
from pipeline.experiment import Experiment
from pipeline.run_folder import RunFolder


def main(experiment: Experiment, run: RunFolder) -> None:
    """Prepares, or goes on where an interrupted preparation stopped."""
    from pipeline.distributed.prepare import prepare
    from pipeline.distributed.session import session
    from pipeline.evaluation.environment_check import tell_environment

    with session(experiment.runs):
        prepare(experiment, run)
    tell_environment(experiment.environment, run.shards_at(experiment.data.output))


if __name__ == "__main__":
    job(main, __doc__)
