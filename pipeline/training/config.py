"""How the model is trained."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from pipeline.configuration import VOLATILE, Config, Place
from pipeline.errors import ConfigError

LOSS = "loss"
"""The measure that is minimised, the first of every method."""


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
    weight_decay: float = Field(0.1, ge=0, description="Weight decay of AdamW.")
    weight_decay_of: Literal["matrices", "everything"] = Field(
        "matrices", description="What decays: matrices alone, or everything, as in the Decision Transformer's gym code."
    )
    gradient_clip: float = Field(1.0, gt=0, description="Largest gradient norm.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="auto is bfloat16 autocast on CUDA and on CPUs that multiply bfloat16 (AVX-512 BF16, AMX, ARM's "
        "BF16), else float32.",
    )
    compile: bool = Field(False, description="Compile the step with torch.compile.")
    cuda_graph: bool = Field(
        False,
        description="Replay the step as one CUDA graph where a single GPU trains: the same numbers without a launch of "
        "each kernel. It has not run on a GPU yet.",
        json_schema_extra=VOLATILE,
    )
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
    select_by: str = Field(
        LOSS,
        description="Measure on held-out episodes by which checkpoints are kept and one is evaluated: the loss that is "
        "minimised, or another one of the method's, such as loss_action of a trajectory_transformer that imitates. "
        "Losses and errors are better the lower, accuracies the higher.",
    )
    keep_best: int = Field(
        1, ge=1, description="Checkpoints kept by select_by, beside the last.", json_schema_extra=VOLATILE
    )
    log_steps: int = Field(
        50, ge=1, description="Optimizer steps between two lines of metrics.jsonl.", json_schema_extra=VOLATILE
    )
    resident_gib: float = Field(
        4.0,
        gt=0,
        description="Data up to this many GiB is held by every worker; more is streamed through Ray Data.",
        json_schema_extra=VOLATILE,
    )
    shuffle_transitions: int = Field(
        500_000, ge=1, description="Transitions that streamed windows are shuffled among, at least."
    )
    high_return_share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of each batch's windows that start in episodes whose return is above the middle between the "
        "data's lowest and highest; null takes every start equally likely. For data whose good episodes are rare.",
    )
    init_from: Place | None = Field(None, description="Checkpoint or public state_*.pt to start from.")

    def require_selection(self, measures: Sequence[str], method: str, held_out: bool) -> None:
        """Checks that checkpoints can be compared by `select_by`.

        Args:
            measures: That there are, as far as they are known.
            method: Whose they are.
            held_out: Whether there are episodes to measure on.

        Raises:
            ConfigError: There is no such measure, or nothing to measure it on.
        """
        if self.select_by not in measures:
            raise ConfigError(
                f"training.select_by is {self.select_by!r}; expected one of {', '.join(measures)}, which {method} "
                "measures."
            )
        if self.select_by != LOSS and not held_out:
            raise ConfigError(
                f"training.select_by is {self.select_by!r}, and no episodes are held out to measure it on; expected "
                f"some: raise data.validation_share and prepare under another --name, or leave it {LOSS!r}."
            )
