"""The shape of the Transformer."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.configuration import Config
from pipeline.errors import ConfigError


class ModelConfig(Config):
    """A pre-norm GPT over transitions (Janner et al. 2021)."""

    layers: int = Field(4, ge=1, le=1000, description="Transformer blocks (4 in the paper).")
    heads: int = Field(4, ge=1, description="Attention heads; must divide width.")
    width: int = Field(128, ge=1, description="Embedding width D (128 in the paper).")
    window_transitions: int = Field(
        20, ge=1, le=1000, description="Transitions that the model is trained on and can see (10 in the paper)."
    )
    positions: Literal["learned", "sinusoidal"] = Field(
        "learned", description="Position embeddings: learned, as in the paper, or fixed sines and cosines."
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout of embedding, residual and attention, 0 to below 1.")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "ModelConfig":
        if self.width % self.heads:
            raise ConfigError(
                f"trajectory_transformer.heads is {self.heads}; expected a divisor of trajectory_transformer.width, "
                f"{self.width}."
            )
        return self
