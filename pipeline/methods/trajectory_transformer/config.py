"""The settings of the Trajectory Transformer's training; how it plans is in `pipeline.planning.config`."""

from typing import ClassVar, Literal

from pydantic import Field

from pipeline.configuration import Config
from pipeline.methods.settings import MethodSettings
from pipeline.models.config import ModelConfig
from pipeline.tokens.layout import TOKEN_KINDS


class LossWeights(Config):
    """Weight of each token kind in the loss (1, 5, 1, 1 in the paper)."""

    observation: float = Field(1.0, ge=0, description="Weight of observation tokens.")
    action: float = Field(5.0, ge=0, description="Weight of action tokens.")
    reward: float = Field(1.0, ge=0, description="Weight of the reward token.")
    value: float = Field(1.0, ge=0, description="Weight of the value token.")


class TrajectoryTransformerConfig(ModelConfig, MethodSettings):
    """A pre-norm GPT over the tokens of transitions (Janner et al. 2021)."""

    row_kinds: ClassVar[dict[str, str]] = {
        "one_step": "Trajectory Transformer, one step",
        "imitation": "Trajectory Transformer, imitation",
        "trajectory_transformer": "Trajectory Transformer",
    }
    default_rows: ClassVar[tuple[str, ...]] = ("one_step", "trajectory_transformer")
    measures: ClassVar[tuple[str, ...]] = (
        "loss",
        *(f"{what}_{kind}" for what in ("loss", "accuracy") for kind in TOKEN_KINDS),
    )
    reads: ClassVar[Literal["tokens", "values"]] = "tokens"
    plans: ClassVar[bool] = True
    only_training: ClassVar[tuple[str, ...]] = ("dropout", "loss_weights")

    loss_weights: LossWeights = LossWeights()
