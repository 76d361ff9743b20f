"""The sections of the report that look into the Trajectory Transformer: one plan put to the test, attention maps."""

from itertools import pairwise

from pipeline.data.shards import read_table
from pipeline.data.table import TOKENS
from pipeline.evaluation.plan_trace import NAME, read_trace
from pipeline.reporting.attention import attention_plot, attention_weights
from pipeline.reporting.page import Section
from pipeline.reporting.plan import plan_plot
from pipeline.reporting.record import RunRecord
from pipeline.tokens.discretizer import Tokens

PLANNER = "trajectory_transformer"
GONE = "The checkpoint that was evaluated is not there any more."
ATTENTION_TRANSITIONS = 6
"""Transitions of the window whose attention is drawn: more would be too fine to see."""


def plan_section(record: RunRecord) -> Section | None:
    """One plan of the first evaluation episode, against its execution; None for a method without plans."""
    if record.method != PLANNER:
        return None
    path = record.run.episodes(PLANNER) / NAME
    if not path.exists() or record.manifest is None:
        return Section(
            "Plan", missing="No episodes of the planner yet; this makes it:", code=record.command("evaluate")
        )
    trace = read_trace(path)
    if isinstance(trace, str):
        return Section("Plan", missing=trace)
    dimensions, names = record.manifest.statistics.dimensions, record.manifest.layout.observation_names
    deviations = [*(dimension.deviation for dimension in dimensions[: len(names)]), dimensions[-2].deviation]
    text = (
        f"The plan at step {trace.step} of the first evaluation episode, executed to its end without planning again. "
        f"Its {len(trace.actual_rewards)} steps earned {trace.actual_rewards.sum():.4g}; it predicted "
        f"{trace.predicted_rewards[: len(trace.actual_rewards)].sum():.4g}."
    )
    return Section("Plan", text=text, drawings=[plan_plot(trace, names, deviations)])


def attention_section(record: RunRecord) -> Section | None:
    """Attention of the first and the third layer on one held-out window; None for another method."""
    if record.method != PLANNER:
        return None
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
    episodes = read_table(record.shards, "validation", [TOKENS])
    for start, end in pairwise(episodes.offsets):
        if end - start >= transitions:
            tokens: Tokens = episodes[TOKENS][start : start + transitions]
            return tokens
    return None
