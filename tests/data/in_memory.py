"""Prepares episodes that are in memory, in this process and without Ray, in milliseconds.

The same functions in the same order as `pipeline.distributed.prepare`, which runs them on a cluster.
"""

from collections.abc import Sequence

from pipeline.data.config import DataConfig, SourceConfig
from pipeline.data.index import read_episodes
from pipeline.data.manifest import Manifest, write_manifest
from pipeline.data.manifest_builder import build_manifest
from pipeline.data.plan import Preparation, ShardPlan, fit_summary, with_splits
from pipeline.data.shards import write_shard
from pipeline.data.sources import MemorySource
from pipeline.data.spaces import Spaces
from pipeline.data.storage import Folder, Location
from pipeline.data.summary import merge, summarise
from pipeline.records import Episode


def write_shards(
    folder: Location,
    episodes: Sequence[Episode],
    config: DataConfig | None = None,
    spaces: Spaces | None = None,
    seed: int = 0,
) -> Manifest:
    """Prepares episodes that are in memory, in this process, and returns the manifest written.

    Args:
        folder: Where the shards go.
        episodes: At least one; two where some are held out for validation.
        config: Discretizer, discount and the like; its sources are not used.
        spaces: How the episodes were flattened; None for plain observations and continuous actions.
        seed: Root seed of the validation split.
    """
    source = (MemorySource(episodes, spaces), SourceConfig(id="memory"))
    preparation = Preparation.of([source], config or DataConfig(), seed)
    summary = merge([summarise(read_episodes(preparation.readers, preparation.index), preparation.summary_settings)])
    fit = fit_summary(preparation, summary)
    plan = ShardPlan.of(preparation, fit)
    records = []
    for number, places in enumerate(plan.shards):
        index = plan.index.take(places)
        rows = with_splits(index, read_episodes(preparation.readers, index))
        records.append(write_shard(Folder(folder), number, rows, plan.settings))
    manifest = build_manifest(preparation, fit, plan, records)
    write_manifest(folder, manifest)
    return manifest
