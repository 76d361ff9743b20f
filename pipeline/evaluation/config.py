"""Which methods are evaluated, on how many episodes, with which resources."""

from typing import Literal

from pydantic import Field

from pipeline.configuration import VOLATILE, Config

MethodName = Literal["random", "behaviour_cloning", "trajectory_transformer"]


class EvaluationConfig(Config):
    """Episodes of each method in the environment."""

    methods: tuple[MethodName, ...] = Field(
        ("random", "behaviour_cloning", "trajectory_transformer"),
        description="Methods to compare: random, behaviour_cloning (the same model, horizon 1, ranked by likelihood), "
        "trajectory_transformer.",
        json_schema_extra=VOLATILE,
    )
    episodes: int = Field(
        20, ge=1, description="Episodes of each method; more later extend the same result.", json_schema_extra=VOLATILE
    )
    batch_size: int = Field(8, ge=1, description="Episodes that one actor plans for in one call.")
    checkpoint: str | None = Field(None, description="Checkpoint folder; null takes the run's best by validation loss.")
    num_actors: int | None = Field(
        None, ge=1, description="Ray actors; null fills the cluster.", json_schema_extra=VOLATILE
    )
    cpus_per_actor: int = Field(1, ge=1, description="CPUs and torch threads of an actor.")
    gpus_per_actor: float = Field(0.0, ge=0, description="GPUs of an actor; fractions share one.")
    max_attempts: int = Field(
        3, ge=1, description="Starts of an episode before a lost actor is given up on.", json_schema_extra=VOLATILE
    )
