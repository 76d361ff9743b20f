"""Runs the whole way: collect, prepare, train, evaluate, report.

    python jobs/run.py --config configs/quickstart.yaml

Each stage finishes what is missing and skips what is there, so the same command goes on after any interruption.
"""

from pipeline.command_line import job
from pipeline.experiment import Experiment
from pipeline.run_folder import RunFolder


def main(experiment: Experiment, run: RunFolder) -> None:
    """Runs all stages in order on one Ray session; collects only where no other data is named."""
    from pipeline.beside import Beside
    from pipeline.data.manifest import read_manifest
    from pipeline.distributed.collect import collect
    from pipeline.distributed.evaluate import evaluate
    from pipeline.distributed.prepare import prepare
    from pipeline.distributed.session import session
    from pipeline.distributed.train import train
    from pipeline.evaluation.environment_check import require_environment
    from pipeline.reporting.report import report

    with session(experiment.runs):
        if not experiment.data.sources:
            collect(experiment, run)
        prepare(experiment, run)
        shards = run.shards_at(experiment.data.output)
        manifest = Beside().do(lambda: read_manifest(shards), "Reading the manifest of the shards")
        require_environment(experiment.environment, manifest)
        train(experiment, run)
        evaluate(experiment, run)
    report(run, experiment.data.output)


if __name__ == "__main__":
    job(main, __doc__, requires_config=True)
