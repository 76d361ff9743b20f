"""The learning rate as a function of the tokens seen so far: linear warm-up, then a cosine."""

import math
from dataclasses import dataclass

from pipeline.training.config import TrainingConfig


@dataclass(frozen=True)
class Schedule:
    """What a run of one configuration on one data set comes to, in steps and tokens.

    Attributes:
        steps_per_epoch: Optimizer steps of one epoch; the windows of an epoch divided by the batch size, rounded up.
        total_steps: Optimizer steps of all epochs.
        tokens_per_step: Tokens of one optimizer step over all workers: batch_size windows of the method's tokens, those
            beyond an episode's end included.
        warmup_tokens: End of the linear warm-up.
        decay_tokens: End of the cosine.
        peak: Learning rate at the end of the warm-up.
        final_share: Share of the peak that the cosine ends at and that is kept from there on.
    """

    steps_per_epoch: int
    total_steps: int
    tokens_per_step: int
    warmup_tokens: int
    decay_tokens: int
    peak: float
    final_share: float

    @classmethod
    def of(cls, config: TrainingConfig, num_starts: int, window_tokens: int) -> "Schedule":
        """Returns the schedule of `config`.

        Args:
            config: Epochs, batch size, learning rate.
            num_starts: Start indices of the training split: the windows of an epoch unless the configuration says.
            window_tokens: Tokens of one window, as the method counts them.
        """
        steps = -(-(config.epoch_windows or num_starts) // config.batch_size)
        epoch_tokens = steps * config.batch_size * window_tokens
        warmup = epoch_tokens if config.warmup_tokens is None else config.warmup_tokens
        return cls(
            steps_per_epoch=steps,
            total_steps=config.epochs * steps,
            tokens_per_step=config.batch_size * window_tokens,
            warmup_tokens=warmup,
            decay_tokens=config.decay_tokens or config.epochs * epoch_tokens,
            peak=config.learning_rate,
            final_share=config.final_learning_rate_share,
        )

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens of one epoch over all workers, those beyond an episode's end included."""
        return self.steps_per_epoch * self.tokens_per_step

    def learning_rate(self, step: int) -> float:
        """Returns the learning rate of optimizer step `step`, counted from 0.

        peak * min(1, n / warmup) up to the end of the warm-up, with n the tokens seen at the end of the step; then
        peak * (share + (1 - share) * (1 + cos(pi * progress)) / 2), and peak * share once the cosine has ended.

        Source: the paper's appendix ("cosine to 10 %"). The released code clips the cosine at 10 % and lets it rise
        again after its end; here it reaches the share smoothly and stays there.
        """
        tokens = (step + 1) * self.tokens_per_step
        if tokens < self.warmup_tokens:
            return self.peak * tokens / self.warmup_tokens
        progress = min(1.0, (tokens - self.warmup_tokens) / max(1, self.decay_tokens - self.warmup_tokens))
        cosine = (1 + math.cos(math.pi * progress)) / 2
        return self.peak * (self.final_share + (1 - self.final_share) * cosine)
