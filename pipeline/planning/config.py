"""The knobs of the beam-search planner."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.configuration import Config
from pipeline.errors import ConfigError


class PlanningConfig(Config):
    """Beam search over the model's samples, ranked by predicted return (Janner et al. 2021, section 3.2)."""

    beam_width: int = Field(128, ge=1, description="Sequences kept after each step (128 in the released code).")
    horizon: int = Field(15, ge=1, description="Environment steps planned ahead (15 in the released code).")
    expansion_factor: int = Field(2, ge=1, description="Copies of each sequence before its actions are sampled.")
    context_transitions: int = Field(5, ge=0, description="Past transitions given to the model.")
    k_obs: int | None = Field(
        1, ge=1, description="Observation tokens are sampled among the k most likely bins; 1 is greedy, null all bins."
    )
    k_act: int | None = Field(
        None, ge=1, description="Action tokens are sampled among the k most likely bins; null all bins."
    )
    cdf_act: float | None = Field(
        0.6,
        ge=0,
        lt=1,
        description="Drops the least likely action bins whose cumulative probability is below this; null keeps all.",
    )
    temperature: float = Field(1.0, gt=0, description="Divides the logits before sampling; above 0.")
    value_estimate: Literal["mean", "percentile"] = Field(
        "mean", description="Reward and value estimates: the mean over bins, or the bin at value_percentile."
    )
    value_percentile: float = Field(
        0.5, ge=0, le=1, description="Quantile of the predicted distribution used by value_estimate percentile."
    )
    discount: float = Field(0.99, gt=0, le=1, description="Discount g of predicted rewards and values.")
    ranking: Literal["predicted_return", "log_likelihood"] = Field(
        "predicted_return", description="What sequences are ranked by."
    )
    plan_every: int = Field(1, ge=1, description="Environment steps executed from one plan.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Of the products inside the model's blocks; auto is float32 on a CPU and bfloat16 on CUDA. Norms, "
        "softmax, logits and scores stay float32.",
    )
    gpu_kernels: Literal["torch", "triton"] = Field(
        "torch",
        description="Of a plan on CUDA: torch's operators, or kernels of our own, a fifth of the "
        "launches, which have not run on a GPU yet. They round differently.",
    )

    @model_validator(mode="after")
    def _plans_are_long_enough(self) -> "PlanningConfig":
        if self.plan_every > self.horizon:
            raise ConfigError(
                f"planning.plan_every is {self.plan_every}; expected at most planning.horizon, {self.horizon}: a plan "
                "has no more actions."
            )
        return self
