"""What a training is told beside its objective: one record, the same for every worker."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.manifest import Manifest
from pipeline.training.config import TrainingConfig


@dataclass(frozen=True)
class TrainingTask:
    """How to train and where the record goes; plain values, the same for every worker.

    Attributes:
        seed: Root seed of the experiment.
        training: Optimizer, schedule, checkpoints.
        config: The effective experiment as plain values, stored in every checkpoint.
        manifest: Of the shards.
        checkpoints, metrics, tensorboard: Where they go.
    """

    seed: int
    training: TrainingConfig
    config: dict[str, Any]
    manifest: Manifest
    checkpoints: Path
    metrics: Path
    tensorboard: Path
