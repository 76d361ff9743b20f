"""The settings of behaviour cloning."""

from typing import ClassVar, Literal

from pydantic import Field

from pipeline.configuration import Config
from pipeline.methods.sequence_settings import SequenceSettings


class BehaviourCloningConfig(SequenceSettings):
    """Imitation of the data's actions: of all of them, or of the best episodes (%BC)."""

    section: ClassVar[str] = "behaviour_cloning"
    row_kinds: ClassVar[dict[str, str]] = {"behaviour_cloning": "Behaviour cloning"}
    default_rows: ClassVar[tuple[str, ...]] = ("behaviour_cloning",)
    only_training: ClassVar[tuple[str, ...]] = ("dropout", "top_return_share")

    architecture: Literal["mlp", "transformer"] = Field(
        "mlp",
        description="An MLP of the current observation, or the Decision Transformer's network without returns, which "
        "sees the last context_steps.",
    )
    top_return_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of the timesteps that is learnt from, the episodes of the highest returns first; 0.1 is "
        "10 % BC. The best episode is always among them.",
    )


class CloningConfig(Config):
    """How a cloned behaviour acts."""

    sample_actions: bool = Field(True, description="Draw discrete actions from what is predicted.")
