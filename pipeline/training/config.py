"""How the model is trained."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.configuration import VOLATILE, Config
from pipeline.errors import ConfigError


class LossWeights(Config):
    """Weight of each token kind in the loss (1, 5, 1, 1 in the paper)."""

    observation: float = Field(1.0, ge=0, description="Weight of observation tokens.")
    action: float = Field(5.0, ge=0, description="Weight of action tokens.")
    reward: float = Field(1.0, ge=0, description="Weight of the reward token.")
    value: float = Field(1.0, ge=0, description="Weight of the value token.")


class TrainingConfig(Config):
    """Optimizer, schedule, batches and checkpoints. An epoch is `epoch_windows` windows, whatever the data's size."""

    epochs: int = Field(50, ge=1, description="Epochs of epoch_windows windows each.")
    epoch_windows: int | None = Field(
        None, ge=1, description="Windows of one epoch; null takes one for each start index of the training split."
    )
    batch_size: int = Field(256, ge=1, description="Windows per optimizer step, over all workers together.")
    accumulation_steps: int = Field(1, ge=1, description="Micro-batches per optimizer step of one worker.")
    learning_rate: float = Field(6e-4, gt=0, description="Peak learning rate of AdamW.")
    final_learning_rate_share: float = Field(0.1, ge=0, le=1, description="Share of the peak that the cosine ends at.")
    warmup_tokens: int | None = Field(None, ge=0, description="Tokens of linear warm-up; null takes one epoch.")
    decay_tokens: int | None = Field(None, ge=1, description="Tokens at which the cosine ends; null takes all epochs.")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's first moment decay.")
    beta2: float = Field(0.95, ge=0, lt=1, description="AdamW's second moment decay.")
    weight_decay: float = Field(
        0.1, ge=0, description="Weight decay of matrices; biases, norms and embeddings get none."
    )
    gradient_clip: float = Field(1.0, gt=0, description="Largest gradient norm.")
    loss_weights: LossWeights = LossWeights()
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="auto is bfloat16 autocast on CUDA and on CPUs that multiply bfloat16 (AVX-512 BF16, AMX, ARM's "
        "BF16), else float32.",
    )
    compile: bool = Field(False, description="Compile the step with torch.compile.")
    validation_windows: int = Field(2_000, ge=1, description="Held-out windows for the validation loss, at most.")
    checkpoint_minutes: float = Field(
        1.0,
        gt=0,
        description="Minutes between checkpoints inside an epoch, and so the most that a lost machine costs.",
        json_schema_extra=VOLATILE,
    )
    spike_factor: float | None = Field(
        3.0,
        gt=1,
        description="A loss above this many times its recent median, and 0.05 above it, stops the run, as NaN does; "
        "null only NaN.",
        json_schema_extra=VOLATILE,
    )
    keep_best: int = Field(
        1, ge=1, description="Checkpoints kept by validation loss, beside the last.", json_schema_extra=VOLATILE
    )
    log_steps: int = Field(
        50, ge=1, description="Optimizer steps between two lines of metrics.jsonl.", json_schema_extra=VOLATILE
    )
    resident_gib: float = Field(
        4.0,
        gt=0,
        description="Tokens up to this many GiB are held by every worker; more are streamed through Ray Data.",
        json_schema_extra=VOLATILE,
    )
    shuffle_transitions: int = Field(
        500_000, ge=1, description="Transitions that streamed windows are shuffled among, at least."
    )
    init_from: str | None = Field(None, description="Checkpoint or public state_*.pt to start from.")
    num_workers: int | tuple[int, int] = Field(
        1, description="Ray Train workers, or [min, max] for elastic training.", json_schema_extra=VOLATILE
    )
    cpus_per_worker: float | None = Field(
        None, gt=0, description="CPUs of a worker; null shares out the cluster's.", json_schema_extra=VOLATILE
    )
    gpus_per_worker: float | None = Field(
        None,
        ge=0,
        description="GPUs of a worker; null takes 1 where there is one for each worker, 0 where there is none at all.",
        json_schema_extra=VOLATILE,
    )
    resize_interval_s: float = Field(
        60.0,
        gt=0,
        description="Seconds between two looks for room for more workers, where num_workers is [min, max]. A new "
        "size starts from the last checkpoint.",
        json_schema_extra=VOLATILE,
    )
    start_timeout_s: float = Field(
        1800.0,
        gt=0,
        description="Seconds that the cluster has to make room for the workers, at the start and after a loss, and "
        "for the tasks that read where windows are streamed.",
        json_schema_extra=VOLATILE,
    )
    max_failures: int = Field(
        3,
        ge=0,
        description="Restarts after lost workers before the job gives up; workers that were told to end, by SIGTERM or "
        "because their node is drained, do not count.",
        json_schema_extra=VOLATILE,
    )

    @property
    def worker_range(self) -> tuple[int, int]:
        """The minimum and the maximum number of workers."""
        return (self.num_workers, self.num_workers) if isinstance(self.num_workers, int) else self.num_workers

    @model_validator(mode="after")
    def _workers_have_windows(self) -> "TrainingConfig":
        minimum, maximum = self.worker_range
        if not 1 <= minimum <= maximum:
            raise ConfigError(
                f"training.num_workers is {self.num_workers}; expected a number of at least 1, or [min, max]."
            )
        parts = maximum * self.accumulation_steps
        if self.batch_size < parts:
            raise ConfigError(
                f"training.batch_size is {self.batch_size}; expected at least {parts}, one window for each "
                f"micro-batch: {maximum} workers * training.accumulation_steps {self.accumulation_steps}."
            )
        return self
