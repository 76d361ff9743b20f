"""What behaviour to collect, and how much."""

from typing import Annotated

from pydantic import Field, model_validator

from pipeline.configuration import VOLATILE, Config, Place
from pipeline.errors import ConfigError


class BehaviourConfig(Config):
    """One policy of the behaviour mixture."""

    policy: Place = Field(
        "random",
        description="`random`, the name of a scripted controller (pipeline/collection/scripted.py), or the path of a "
        "policy file (.npz).",
    )
    sample: bool = Field(
        False, description="Draw from a policy file's own Gaussian instead of taking its mean, before noise is added."
    )
    noise: float = Field(
        0.0, ge=0, description="Standard deviation of the Gaussian noise added to actions, in the actions' own unit."
    )
    max_noise: float | None = Field(
        None,
        ge=0,
        description="Each episode draws its noise between `noise` and this, evenly; null gives all episodes `noise`.",
    )
    random_share: float = Field(
        0.0, ge=0, le=1, description="Share of steps whose action is drawn at random from the action space, 0 to 1."
    )
    weight: float = Field(1.0, gt=0, description="Share of episodes, relative to the other behaviours; above 0.")

    @model_validator(mode="after")
    def _noise_range_is_ordered(self) -> "BehaviourConfig":
        if self.max_noise is not None and self.max_noise < self.noise:
            raise ConfigError(f"max_noise is {self.max_noise}; expected at least noise, {self.noise}.")
        return self

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> "BehaviourConfig":
        if self.policy == "random" and (self.noise or self.max_noise):
            raise ConfigError("policy random has noise; expected none: its actions are drawn evenly already.")
        if self.sample and not self.policy.endswith(".npz"):
            raise ConfigError(
                f"policy {self.policy} is sampled; expected a policy file, which has a Gaussian of its own."
            )
        return self


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
        None,
        ge=1,
        description="Ray actors, at most; null takes one for each CPU, and asks a cluster (RAY_ADDRESS) for one for "
        "each minute of work that is left, so that it grows.",
        json_schema_extra=VOLATILE,
    )
    timeout_s: float = Field(
        900.0,
        gt=0,
        description="Seconds to wait for the first actor to start, and for any actor to collect 25 episodes (fewer "
        "where these may have more than 5000 steps) before they are given to another, twice at most.",
        json_schema_extra=VOLATILE,
    )
