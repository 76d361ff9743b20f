"""From a method's name to a batch of environments with a policy: what an evaluation actor builds for itself.

A recipe is plain configuration. It crosses process borders instead of models and environments, and equal recipes run
the same episode to the same result.
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from pipeline.configuration import VOLATILE, Config
from pipeline.data.spaces import Spaces
from pipeline.environments import EnvironmentConfig, make_environment
from pipeline.evaluation.config import EvaluationConfig, MethodName
from pipeline.evaluation.environment_check import check_environment
from pipeline.evaluation.rollout import Environment, EpisodeBatch, EpisodeStart
from pipeline.evaluation.subject import model_sums
from pipeline.evaluation.video import VideoRecorder, choose_rendering_backend
from pipeline.planning.config import PlanningConfig
from pipeline.planning.policies import PlannerPolicy, Policy, RandomPolicy
from pipeline.provenance import computed_by
from pipeline.training.checkpoint import load_checkpoint


class MethodRecipe(Config):
    """Everything that decides what a method does in an episode of a given seed.

    Attributes:
        method: Its name.
        environment: Where it acts.
        spaces: Of the data, which the environment must have too.
        planning: Of the method itself: behaviour cloning has its own.
        num_slots: Episodes that one call of the policy decides for.
        checkpoint: Absolute path of the model's folder, None for a method without a model.
        device: Where the model computes, `cpu` or `cuda`.
        videos: Episodes that are filmed, the first ones.
        video_folder: Where the films go, absolute; needed if there are any.
    """

    method: MethodName
    environment: EnvironmentConfig
    spaces: Spaces
    planning: PlanningConfig
    num_slots: int
    checkpoint: str | None = None
    device: str = "cpu"
    videos: int = Field(0, json_schema_extra=VOLATILE)
    video_folder: str | None = Field(None, json_schema_extra=VOLATILE)

    def identity(self) -> dict[str, Any]:
        """Returns what the episodes depend on; the model stands in it with its checksums, not with its path."""
        common = {"method": self.method, "environment": self.environment.identity()}
        if self.checkpoint is None:
            # Of the planning, the discounted returns alone depend on something.
            return {**common, "discount": self.planning.discount}
        return {
            **common,
            "planning": self.planning.identity(),
            "num_slots": self.num_slots,
            "device": self.device,
            "model": model_sums(Path(self.checkpoint)),
        }


def method_recipe(
    method: MethodName,
    environment: EnvironmentConfig,
    planning: PlanningConfig,
    evaluation: EvaluationConfig,
    spaces: Spaces,
    checkpoint: Path | None,
) -> MethodRecipe:
    """Returns the recipe of a method in an experiment.

    Behaviour cloning is the same model and sampling, but looks one step ahead and takes the action that the model
    finds most likely among those that it sampled.
    """
    cloning = {"horizon": 1, "ranking": "log_likelihood", "plan_every": 1}
    return MethodRecipe(
        method=method,
        environment=environment,
        spaces=spaces,
        planning=planning.model_copy(update=cloning) if method == "behaviour_cloning" else planning,
        num_slots=evaluation.batch_size,
        checkpoint=None if method == "random" else str(checkpoint),
        device="cuda" if evaluation.gpus_per_actor else "cpu",
    )


def build_batch(recipe: MethodRecipe) -> EpisodeBatch:
    """Returns a batch with free slots.

    Raises:
        EnvironmentSetupError: The environment cannot be made, or does not have the data's spaces.
        EvaluationError: The method random, where neither data nor environment bound the actions.
        CheckpointError: The model cannot be loaded.
    """
    if recipe.videos:
        choose_rendering_backend()
    recipe = recipe.model_copy(update={"spaces": check_environment(recipe.environment, recipe.spaces).spaces})
    return EpisodeBatch(
        make=lambda start: _make(recipe, start),
        policy=build_policy(recipe),
        spaces=recipe.spaces,
        method=recipe.method,
        discount=recipe.planning.discount,
        make_recorder=lambda start: _recorder(recipe, start),
        computed_by=computed_by(recipe.device) if recipe.checkpoint else None,
    )


def video_path(folder: Path, episode: int) -> Path:
    """Returns the film of an episode."""
    return folder / f"episode-{episode:06d}.mp4"


def _make(recipe: MethodRecipe, start: EpisodeStart) -> Environment:
    drawing = {"render_mode": "rgb_array"} if start.episode < recipe.videos else {}
    return make_environment(recipe.environment, **drawing)


def _recorder(recipe: MethodRecipe, start: EpisodeStart) -> VideoRecorder | None:
    if start.episode >= recipe.videos:
        return None
    assert recipe.video_folder is not None, "a recipe with videos has a folder for them"
    return VideoRecorder(video_path(Path(recipe.video_folder), start.episode))


def build_policy(recipe: MethodRecipe) -> Policy:
    """Returns the policy of a recipe.

    Raises:
        CheckpointError: The model cannot be loaded.
    """
    if recipe.checkpoint is None:
        return RandomPolicy(recipe.spaces, recipe.num_slots)
    loaded = load_checkpoint(Path(recipe.checkpoint), recipe.device)
    return PlannerPolicy(loaded.model, loaded.manifest.discretizer, recipe.planning, recipe.num_slots, recipe.device)
