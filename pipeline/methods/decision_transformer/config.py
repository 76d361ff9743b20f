"""The settings of the Decision Transformer: its network, and the returns that it is asked for."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, model_validator

from pipeline.configuration import VOLATILE, Config
from pipeline.errors import ConfigError
from pipeline.methods.sequence_settings import SequenceSettings


class DecisionTransformerConfig(SequenceSettings):
    """A GPT over steps that is asked for a return (Chen et al. 2021); defaults of the paper's gym experiments."""

    section: ClassVar[str] = "decision_transformer"
    row_kinds: ClassVar[dict[str, str]] = {"decision_transformer": "Decision Transformer"}
    default_rows: ClassVar[tuple[str, ...]] = ("decision_transformer",)

    return_scale: float | None = Field(
        None,
        gt=0,
        description="What returns are divided by (1000 in the paper's locomotion, 10 in Reacher); null takes the "
        "largest absolute return of the data.",
    )
    target_returns: float | tuple[float, ...] | None = Field(
        None,
        description="Returns that it is asked for, a row of the table each; null takes the best episode's of the data "
        "and a half of it, or the mean where that is below 0.",
        json_schema_extra=VOLATILE,
    )
    acting_steps: int | None = Field(
        None,
        ge=1,
        description="Steps that it sees while it acts, at most context_steps; null takes all of these.",
        json_schema_extra=VOLATILE,
    )

    def acted(self, acting: Mapping[str, Any]) -> dict[str, Any]:
        """Returns how it acted, but for the returns asked for: rows of several stand beside each other."""
        steps = acting["context_steps"]
        return super().acted(acting) | {"acting_steps": None if steps == self.context_steps else steps}

    @model_validator(mode="after")
    def _acting_fits(self) -> "DecisionTransformerConfig":
        if self.acting_steps is not None and self.acting_steps > self.context_steps:
            raise ConfigError(
                f"decision_transformer.acting_steps is {self.acting_steps}; expected at most "
                f"decision_transformer.context_steps, {self.context_steps}, which it is trained on."
            )
        if self.target_returns == ():
            raise ConfigError("decision_transformer.target_returns is empty; expected at least one return, or null.")
        return self


class ReturnConditioning(Config):
    """How it acts."""

    target_return: float = Field(..., description="Return that it is asked for.")
    context_steps: int = Field(..., ge=1, description="Steps that it sees.")
    sample_actions: bool = Field(True, description="Draw discrete actions from what is predicted.")
