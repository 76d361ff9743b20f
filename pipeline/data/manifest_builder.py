"""The manifest of finished shards, from what both passes found."""

from collections.abc import Sequence
from importlib.metadata import version

import numpy as np

from pipeline.data.fit import Fit
from pipeline.data.manifest import Manifest, ShardRecord, SourceRecord, Totals
from pipeline.data.plan import Preparation, ShardPlan
from pipeline.data.sources import Source
from pipeline.data.statistics import DimensionStatistics, ReturnStatistics, Statistics
from pipeline.data.summary import Summary

MAX_COMPLAINTS = 20
"""Dropped episodes of which the manifest says what was wrong; all of them are counted."""


def build_manifest(preparation: Preparation, fit: Fit, plan: ShardPlan, shards: Sequence[ShardRecord]) -> Manifest:
    """Returns the manifest of finished shards."""
    discretizer, config = fit.discretizer, preparation.config
    bins = discretizer.layout.bins
    return Manifest(
        layout=discretizer.layout,
        edges=tuple(tuple(row[: count + 1].tolist()) for row, count in zip(discretizer.edges, bins, strict=True)),
        centers=tuple(tuple(row[:count].tolist()) for row, count in zip(discretizer.centers, bins, strict=True)),
        discretizer_kind="given" if config.discretizer_from else config.discretizer,
        spaces=preparation.spaces,
        treatment=config.reward_treatment,
        columns=plan.settings.columns,
        seed=preparation.seed,
        sources=tuple(
            _source_record(source, len(listing.ids), fit.summary, number)
            for number, (source, listing) in enumerate(zip(preparation.readers, preparation.listings, strict=True))
        ),
        shards=tuple(shards),
        totals=Totals(
            episodes=len(plan.index),
            validation_episodes=int(plan.index.held_out.sum()),
            steps=plan.index.steps,
            validation_steps=int(plan.index.lengths[plan.index.held_out].sum()),
        ),
        statistics=_statistics(preparation, fit, shards),
        versions={name: version(name) for name in ("numpy", "pyarrow", "scipy")},
    )


def _source_record(source: Source, available: int, summary: Summary, number: int) -> SourceRecord:
    taken = summary.sources == number
    return SourceRecord(
        name=source.name,
        episodes=int(taken.sum()),
        steps=int(summary.lengths[taken].sum()),
        available_episodes=available,
        fingerprint=source.fingerprint(),
        environment=source.environment,
        reference_scores=source.reference_scores,
    )


def _statistics(preparation: Preparation, fit: Fit, shards: Sequence[ShardRecord]) -> Statistics:
    summary, layout = fit.summary, fit.discretizer.layout
    returns = []
    for number, (source, listing) in enumerate(zip(preparation.readers, preparation.listings, strict=True)):
        mine, dropped = summary.sources == number, int((summary.invalid_sources == number).sum())
        if mine.any():
            returns.append(
                ReturnStatistics.of(
                    source.name,
                    summary.returns[mine],
                    summary.lengths[mine],
                    summary.terminated[mine],
                    summary.truncated[mine],
                    dropped,
                    listing.divided,
                )
            )
    names = [*layout.observation_names, *(f"action[{i}]" for i in range(layout.action_dim)), "reward", "value"]
    clipped = np.array([shard.clipped for shard in shards]).sum(axis=0)
    steps = int(summary.lengths.sum())
    dimensions = [
        DimensionStatistics(
            name=name,
            minimum=float(summary.lowest[column]),
            maximum=float(summary.highest[column]),
            mean=float(summary.mean[column]),
            deviation=float(np.sqrt(summary.squares[column] / steps)),
            distinct=int(fit.distinct[column]),
            bins=layout.bins[column],
            clipped=int(clipped[column]),
        )
        for column, name in enumerate(names)
    ]
    return Statistics(
        returns=tuple(returns),
        dimensions=tuple(dimensions),
        sampled_steps=fit.sampled_steps,
        invalid=tuple(summary.complaints[:MAX_COMPLAINTS].tolist()),
    )
