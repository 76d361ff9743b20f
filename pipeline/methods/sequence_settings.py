"""Settings that the Decision Transformer and behaviour cloning have in common."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from pipeline.configuration import VOLATILE
from pipeline.errors import ConfigError
from pipeline.methods.settings import MethodSettings


class SequenceSettings(MethodSettings):
    """A network that predicts actions; defaults of the paper's gym experiments (Chen et al. 2021).

    Attributes:
        section: What the section is called, for errors.
    """

    section: ClassVar[str]
    measures: ClassVar[tuple[str, ...]] = ("loss", "accuracy_action")

    context_steps: int = Field(
        20,
        ge=1,
        le=4096,
        description="Steps that a Transformer is trained on and sees (K; 20 in the paper's gym experiments).",
    )
    layers: int = Field(3, ge=1, le=1000, description="Transformer blocks, or hidden layers of an MLP.")
    heads: int = Field(1, ge=1, description="Attention heads of a Transformer; must divide width.")
    width: int = Field(128, ge=1, description="Width of the embedding, or of each hidden layer.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout, 0 to below 1.")
    max_episode_steps: int | None = Field(
        None,
        ge=1,
        description="Rows of a Transformer's table over an episode's steps, later steps take the last (1000 in the "
        "released code); null takes the longest episode of the data.",
    )
    sample_actions: bool = Field(
        True,
        description="Draw discrete actions from what is predicted; false takes the most likely one.",
        json_schema_extra=VOLATILE,
    )

    def acted(self, acting: Mapping[str, Any]) -> dict[str, Any]:
        """Returns whether discrete actions were drawn."""
        return {"sample_actions": acting["sample_actions"]}

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ConfigError(
                f"{self.section}.heads is {self.heads}; expected a divisor of {self.section}.width, {self.width}."
            )
        return self
