"""The sections of the report that run the model: one plan put to the test, and attention maps."""

from itertools import pairwise

from pipeline.data.shards import read_tokens
from pipeline.environments import EnvironmentConfig, make_environment
from pipeline.errors import PipelineError
from pipeline.planning.config import PlanningConfig
from pipeline.planning.policies import PlannerPolicy
from pipeline.reporting.attention import attention_plot, attention_weights
from pipeline.reporting.page import Section
from pipeline.reporting.plan import plan_plot, trace_plan, warm_up_steps
from pipeline.reporting.record import RunRecord
from pipeline.tokens.discretizer import Tokens

PLANNER = "trajectory_transformer"
GONE = "The checkpoint that was evaluated is not there any more."
ATTENTION_TRANSITIONS = 6
"""Transitions of the window whose attention is drawn: more would be too fine to see."""


def plan_section(record: RunRecord) -> Section:
    """One plan of the first evaluation episode that ended, against its execution."""
    ended = [episode for episode in record.episodes.get(PLANNER, []) if not episode.error]
    if ended and record.checkpoint_is_gone:
        return Section("Plan", missing=GONE)
    if not ended or record.checkpoint is None or record.config is None:
        return Section(
            "Plan", missing="No episodes of the planner yet; this makes it:", code=record.command("evaluate")
        )
    manifest, seed = record.checkpoint.manifest, ended[0].seed
    planning = PlanningConfig.model_validate(record.config["planning"])
    policy = PlannerPolicy(record.checkpoint.model, manifest.discretizer, planning, num_slots=1)
    environment = make_environment(EnvironmentConfig.model_validate(record.config["environment"]))
    warm_up = warm_up_steps(planning.context_transitions, planning.plan_every)
    try:
        trace = trace_plan(policy, environment, manifest.spaces, manifest.discretizer, seed, warm_up)
    except PipelineError as error:
        return Section("Plan", missing=f"The episode of seed {seed} could not be played again: {error}")
    finally:
        environment.close()
    if trace is None:
        return Section("Plan", missing=f"The episode of seed {seed} ended within the first {warm_up} steps.")
    dimensions = manifest.statistics.dimensions
    names = manifest.layout.observation_names
    deviations = [*(dimension.deviation for dimension in dimensions[: len(names)]), dimensions[-2].deviation]
    text = (
        f"The plan at step {trace.step} of evaluation episode {ended[0].episode}, executed to its end without planning "
        f"again. Its {len(trace.actual_rewards)} steps earned {trace.actual_rewards.sum():.4g}; it predicted "
        f"{trace.predicted_rewards[: len(trace.actual_rewards)].sum():.4g}."
    )
    return Section("Plan", text=text, drawings=[plan_plot(trace, names, deviations)])


def attention_section(record: RunRecord) -> Section:
    """Attention of the first and the third layer on one held-out window."""
    if record.checkpoint_is_gone:
        return Section("Attention", missing=GONE)
    if record.checkpoint is None or not record.has_shards:
        return Section(
            "Attention", missing="No checkpoint with its shards yet; this makes it:", code=record.command("train")
        )
    model = record.checkpoint.model
    transitions = min(ATTENTION_TRANSITIONS, model.config.window_transitions)
    window = _held_out_window(record, transitions)
    if window is None:
        missing = (
            f"No held-out episode is long enough: raise data.validation_share and run {record.command('prepare')}."
        )
        return Section("Attention", missing=missing)
    # Two layers, as in the paper's figure; a model of two has no third.
    layers = sorted({0, min(2, model.config.layers - 1)})
    weights = attention_weights(model, window.ravel()[: model.max_inputs], layers)
    return Section("Attention", drawings=[attention_plot(weights, model.layout.transition_dim)])


def _held_out_window(record: RunRecord, transitions: int) -> Tokens | None:
    """Returns the first (transitions, D) tokens of the first held-out episode that has as many, None without one."""
    episodes = read_tokens(record.shards, "validation")
    for start, end in pairwise(episodes.offsets):
        if end - start >= transitions:
            return episodes.tokens[start : start + transitions]
    return None
