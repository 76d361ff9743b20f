"""From a row of the table to a batch of environments with a policy: what an evaluation actor builds for itself.

A recipe is plain configuration. It crosses process borders instead of models and environments, and equal recipes run
the same episode to the same result.
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from pipeline.acting import RANDOM, NearestActions, Policy, RandomPolicy
from pipeline.configuration import VOLATILE, Config
from pipeline.data.manifest import Manifest
from pipeline.data.spaces import Spaces
from pipeline.environments import EnvironmentConfig, close_environment, make_environment
from pipeline.errors import EnvironmentSetupError
from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.environment_check import check_environment
from pipeline.evaluation.plan_trace import PlanTrace, trace_plan, warm_up_steps, write_trace
from pipeline.evaluation.rollout import Environment, EpisodeBatch, EpisodeStart
from pipeline.evaluation.subject import load_manifest, model_sums
from pipeline.evaluation.video import VideoRecorder, choose_rendering_backend
from pipeline.methods.checkpoint import load_checkpoint
from pipeline.methods.method import Row
from pipeline.methods.registry import METHODS
from pipeline.planning.config import PlanningConfig
from pipeline.provenance import computed_by


class Recipe(Config):
    """Everything that decides what a row does in an episode of a given seed.

    Attributes:
        row: Its name.
        environment: Where it acts.
        spaces: Of the data, which the environment must have too; where it acts, the environment's own.
        discount: g of the results' discounted return, that of the data.
        delay_rewards: The policy is told no reward, as its data had none before the end.
        num_slots: Episodes that one call of the policy decides for.
        method: That the model is of, None for the random policy.
        acting: Plain values of `Method.acting`.
        checkpoint: Absolute path of the model's folder, None for the random policy.
        device: Where the model computes, `cpu` or `cuda`.
        videos: Episodes that are filmed, the first ones.
        video_folder: Where the films go, absolute; needed if there are any.
        plan_trace: File that gets one plan put to the test (`pipeline.evaluation.plan_trace`), None for no such file.
    """

    row: str
    environment: EnvironmentConfig
    spaces: Spaces
    discount: float
    delay_rewards: bool = False
    num_slots: int
    method: str | None = None
    acting: dict[str, Any] = Field(default_factory=dict)
    checkpoint: str | None = None
    device: str = "cpu"
    videos: int = Field(0, json_schema_extra=VOLATILE)
    video_folder: str | None = Field(None, json_schema_extra=VOLATILE)
    plan_trace: str | None = Field(None, json_schema_extra=VOLATILE)

    def identity(self) -> dict[str, Any]:
        """Returns what the episodes depend on; the model stands in it with its checksums, not with its path."""
        common = {"row": self.row, "environment": self.environment.identity(), "discount": self.discount}
        if self.checkpoint is None:
            return common
        return {
            **common,
            "method": self.method,
            "acting": self.acting,
            "num_slots": self.num_slots,
            "device": self.device,
            "model": model_sums(Path(self.checkpoint)),
        }


def random_recipe(environment: EnvironmentConfig, evaluation: EvaluationConfig, manifest: Manifest) -> Recipe:
    """Returns the recipe of the random policy."""
    return Recipe(
        row=RANDOM,
        environment=environment,
        spaces=manifest.spaces,
        discount=manifest.treatment.discount,
        num_slots=evaluation.batch_size,
    )


def row_recipe(
    row: Row,
    method: str,
    environment: EnvironmentConfig,
    evaluation: EvaluationConfig,
    manifest: Manifest,
    checkpoint: Path,
) -> Recipe:
    """Returns the recipe of a row of a method."""
    return random_recipe(environment, evaluation, manifest).model_copy(
        update={
            "row": row.name,
            "method": method,
            "acting": row.acting.model_dump(mode="json"),
            "delay_rewards": manifest.treatment.delayed,
            "checkpoint": str(checkpoint),
            "device": "cuda" if evaluation.gpus_per_actor else "cpu",
        }
    )


def build_batch(recipe: Recipe) -> EpisodeBatch:
    """Returns a batch with free slots.

    Raises:
        EnvironmentSetupError: The environment cannot be made, or does not have the data's spaces.
        EvaluationError: The row random, where the environment does not bound its actions.
        CheckpointError: The model cannot be loaded.
    """
    if recipe.videos:
        choose_rendering_backend()
    recipe = recipe.model_copy(update={"spaces": check_environment(recipe.environment, recipe.spaces).spaces})
    return EpisodeBatch(
        make=lambda start: _make(recipe, start),
        policy=build_policy(recipe),
        spaces=recipe.spaces,
        method=recipe.row,
        discount=recipe.discount,
        delay_rewards=recipe.delay_rewards,
        make_recorder=lambda start: _recorder(recipe, start),
        computed_by=computed_by(recipe.device) if recipe.checkpoint else None,
    )


def video_path(folder: Path, episode: int) -> Path:
    """Returns the film of an episode."""
    return folder / f"episode-{episode:06d}.mp4"


def _make(recipe: Recipe, start: EpisodeStart) -> Environment:
    if start.episode >= recipe.videos:
        return make_environment(recipe.environment)
    try:
        return make_environment(recipe.environment, render_mode="rgb_array")
    except EnvironmentSetupError as error:
        raise EnvironmentSetupError(
            f"evaluation.videos is {recipe.videos}; expected 0 for an environment that cannot draw: {error}"
        ) from error


def _recorder(recipe: Recipe, start: EpisodeStart) -> VideoRecorder | None:
    if start.episode >= recipe.videos:
        return None
    assert recipe.video_folder is not None, "a recipe with videos has a folder for them"
    return VideoRecorder(video_path(Path(recipe.video_folder), start.episode))


def build_policy(recipe: Recipe) -> Policy:
    """Returns the policy of a recipe whose spaces are the environment's.

    Raises:
        CheckpointError: The model cannot be loaded.
        EvaluationError: The row random, where the environment does not bound its actions.
    """
    if recipe.checkpoint is None or recipe.method is None:
        return RandomPolicy(recipe.spaces, recipe.num_slots)
    loaded, method = load_checkpoint(Path(recipe.checkpoint), recipe.device), METHODS[recipe.method]
    acting = method.acting.model_validate(recipe.acting)
    policy = method.make_policy(loaded.model, acting, loaded.manifest, recipe.num_slots, recipe.device)
    return NearestActions(policy, recipe.spaces)


def is_trace_due(recipe: Recipe) -> bool:
    """Returns whether a plan shall be put to the test, and none was yet."""
    return recipe.plan_trace is not None and not Path(recipe.plan_trace).exists()


def write_plan_trace(recipe: Recipe, start: EpisodeStart) -> None:
    """Plays the episode `start` to the first plan from a full context, and writes what comes of it.

    Rewards that are delayed are so for the plan, too; what it earns is told as the environment gave it.

    Raises:
        CheckpointError: The model cannot be loaded.
    """
    assert recipe.plan_trace is not None, "the recipe says where it goes"
    planning = PlanningConfig.model_validate(recipe.acting)
    spaces = check_environment(recipe.environment, recipe.spaces).spaces
    discretizer = load_manifest("", Path(recipe.checkpoint or "")).discretizer
    policy = build_policy(recipe.model_copy(update={"num_slots": 1, "spaces": spaces}))
    environment = make_environment(recipe.environment)
    steps = warm_up_steps(planning.context_transitions, planning.plan_every)

    def trace() -> PlanTrace | None:
        return trace_plan(policy, environment, spaces, discretizer, start.seed, steps, recipe.delay_rewards)

    try:
        write_trace(Path(recipe.plan_trace), trace)
    finally:
        close_environment(environment)
