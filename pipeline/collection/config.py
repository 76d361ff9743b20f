"""What behaviour to collect, and how much."""

from typing import Annotated

from pydantic import Field

from pipeline.configuration import VOLATILE, Config


class BehaviourConfig(Config):
    """One policy of the behaviour mixture."""

    policy: str = Field(
        "random",
        description="`random`, the name of a scripted controller (pipeline/collection/scripted.py), or the path of a "
        "policy file (.npz).",
    )
    noise: float = Field(
        0.0, ge=0, description="Standard deviation of the Gaussian noise added to actions, at least 0."
    )
    random_share: float = Field(
        0.0, ge=0, le=1, description="Share of steps whose action is drawn at random from the action space, 0 to 1."
    )
    weight: float = Field(1.0, gt=0, description="Share of episodes, relative to the other behaviours; above 0.")


class CollectConfig(Config):
    """Behaviour data collected by stepping the environment."""

    dataset_id: str = Field(
        "collected/behaviour-v0", description="Minari id of the dataset to write: namespace/name-vN."
    )
    steps: int = Field(20_000, ge=1, description="Environment steps to collect; whole episodes, at least this many.")
    behaviours: Annotated[tuple[BehaviourConfig, ...], Field(min_length=1)] = Field(
        (BehaviourConfig(),), description="The mixture; each episode draws one behaviour by weight."
    )
    num_actors: int | None = Field(
        None, ge=1, description="Ray actors; null takes one for each CPU.", json_schema_extra=VOLATILE
    )
