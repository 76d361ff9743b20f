"""Small trainings as jobs/train.py runs them, and the same ones without Ray to compare them with."""

from pathlib import Path
from typing import Any

import torch

from pipeline.configuration import claim_folder
from pipeline.data.config import DataConfig
from pipeline.distributed.train import training_identity
from pipeline.distributed.train_worker import make_training
from pipeline.experiment import Experiment
from pipeline.run_folder import RunFolder
from pipeline.training.checkpoint import last_checkpoint
from tests.data.in_memory import write_shards
from tests.training.tasks import curve, make_episodes, make_loop

SETTINGS: dict[str, Any] = {
    "name": "small",
    "trajectory_transformer": {"layers": 1, "heads": 2, "width": 16, "window_transitions": 4, "dropout": 0.1},
    "planning": {"context_transitions": 2},
    "training": {
        "epochs": 2,
        "batch_size": 16,
        "log_steps": 5,
        "validation_windows": 20,
        "precision": "float32",  # as close to each other as two numbers of workers can be
    },
    "workers": {"cpus": 1},
}


def make_run(runs: Path, workers: dict[str, Any] | None = None, **training: Any) -> tuple[Experiment, RunFolder]:
    """Returns an experiment and its run folder, with shards."""
    sections = {"training": {**SETTINGS["training"], **training}, "workers": {**SETTINGS["workers"], **(workers or {})}}
    settings = {**SETTINGS, "runs": str(runs), **sections}
    run = RunFolder(runs / "small")
    if not run.shards.exists():
        data = DataConfig(num_bins=10, validation_share=0.2, steps_per_shard=40, steps_per_row=9)
        write_shards(run.shards, make_episodes(), data)
    return Experiment.model_validate(settings), run


def without_dropout(experiment: Experiment) -> Experiment:
    """Returns the experiment of a model whose result does not depend on the number of workers."""
    settings = experiment.settings.model_copy(update={"dropout": 0.0})
    return experiment.model_copy(update={experiment.method: settings})


def uninterrupted(
    experiment: Experiment, run: RunFolder, folder: Path, until: float = float("inf")
) -> list[dict[str, Any]]:
    """Returns the curve of the same training without Ray and without interruption, on one thread as a worker has.

    Args:
        experiment: What is trained.
        run: Where its shards are.
        folder: For its own record.
        until: The step at which the other training was told to stop: it has not reported an epoch that ends there.
    """
    folder.mkdir(exist_ok=True)
    (folder / "shards").symlink_to(run.shards)
    training = make_training(experiment, RunFolder(folder))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    loop, windows, validation = make_loop(training, stop_requested=lambda: loop.step >= until)
    loop.run(windows, validation)
    torch.set_num_threads(threads)
    return [line for line in curve(training.task.metrics) if line["step"] < until + (line["kind"] == "step")]


def trained_without_ray(experiment: Experiment, run: RunFolder) -> Path:
    """Trains the experiment as `train` would, but without Ray, and returns the last checkpoint."""
    training = make_training(experiment, run)
    claim_folder(run.checkpoints, training_identity(experiment, training), "checkpoints")
    loop, windows, validation = make_loop(training)
    loop.run(windows, validation)
    folder = last_checkpoint(run.checkpoints)
    assert folder is not None
    return folder
