"""Episodes as tables of numbers, one row per transition, checked before anything is computed from them."""

import numpy as np
from numpy.typing import NDArray

from pipeline.data.returns import RewardTreatment, value_to_go
from pipeline.errors import DataError
from pipeline.records import Episode


def check_shapes(episode: Episode, observation_dim: int, action_dim: int) -> None:
    """Checks that an episode is whole and like the others.

    Raises:
        DataError: T observations instead of T + 1, other dimensions.
    """
    steps = episode.num_steps
    where = f"Episode {episode.episode_id} of {episode.source}"
    if len(episode.actions) != steps or len(episode.observations) != steps + 1:
        raise DataError(
            f"{where} has {steps} rewards, {len(episode.actions)} actions and {len(episode.observations)} "
            f"observations; expected {steps} actions and {steps + 1} observations. The download or the "
            "collection may be incomplete."
        )
    shapes = episode.observations.shape[1:], episode.actions.shape[1:]
    if shapes != ((observation_dim,), (action_dim,)):
        raise DataError(
            f"{where} has observations of the shape {shapes[0]} and actions of {shapes[1]}; expected "
            f"{(observation_dim,)} and {(action_dim,)} as in the rest. Mix only data sets of one environment."
        )


def complaint_of(episode: Episode) -> str | None:
    """Returns why the episode cannot be used: a defect of its record, no steps, or no numbers; None if it can."""
    if episode.defect:
        return f"Episode {episode.episode_id} of {episode.source} {episode.defect}"
    if episode.num_steps < 1:
        return f"Episode {episode.episode_id} of {episode.source} has 0 steps"
    for name in ("observations", "actions", "rewards"):
        array = getattr(episode, name)
        finite = np.isfinite(array)
        if not finite.all():
            step = int(np.argwhere(~finite)[0][0])
            return (
                f"Episode {episode.episode_id} of {episode.source} has {int((~finite).sum())} NaN or infinite values "
                f"in {name}, the first at step {step}"
            )
    return None


def transition_table(episode: Episode, treatment: RewardTreatment) -> NDArray[np.float64]:
    """Returns (T, D) the episode's transitions: observation, action, reward, value to go.

    Args:
        episode: Checked by `check_shapes`.
        treatment: What is done with the rewards before values are computed from them.
    """
    rewards = treatment.penalised(episode.rewards, episode.terminated)
    values = value_to_go(rewards, treatment.discount)
    return np.column_stack([episode.observations[:-1], episode.actions, rewards, values])
