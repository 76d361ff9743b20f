"""Episodes in memory as a source, and their preparation in this process, without Ray, in milliseconds.

It takes the same functions in the same order as `pipeline.distributed.prepare`, which runs them on a cluster.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.data.config import DataConfig, SourceConfig
from pipeline.data.fit import fit_summary
from pipeline.data.index import read_episodes
from pipeline.data.manifest import Manifest, write_manifest
from pipeline.data.manifest_builder import build_manifest
from pipeline.data.plan import Preparation, ShardPlan, with_splits
from pipeline.data.shards import write_shard
from pipeline.data.sources import Listing
from pipeline.data.spaces import Spaces
from pipeline.data.storage import Folder, Location
from pipeline.data.summary import Summary, merge, summarize_episodes
from pipeline.records import Episode


@dataclass(frozen=True)
class MemorySource:
    """Episodes that are already there.

    Attributes:
        episodes: At least one.
        spaces: How they were flattened; None for plain observations and continuous actions.
        environment: What they were collected in.
        name: Names them.
    """

    episodes: Sequence[Episode]
    columns: Spaces | None = None
    environment: dict[str, Any] | None = None
    name: str = "memory"
    reference_scores: tuple[float, float] | None = None

    @property
    def spaces(self) -> Spaces:
        """As given, or plain ones of the first episode's dimensions."""
        first = self.episodes[0]
        return self.columns or Spaces.plain(first.observations.shape[1], first.actions.shape[1])

    def listing(self) -> Listing:
        """Returns the episodes, each under its place."""
        return Listing.numbered(np.array([episode.num_steps for episode in self.episodes], dtype=np.int64))

    def fingerprint(self) -> str:
        """Returns what distinguishes them: name and number of steps."""
        return f"{self.name}:{self.listing().lengths.sum()}"

    def read(self, ids: Sequence[int]) -> Iterator[Episode]:
        """Yields the episodes at the places `ids`."""
        for index in ids:
            yield self.episodes[index]


def summary_of(preparation: Preparation) -> Summary:
    """The first pass over all of its episodes at once."""
    return merge(
        [summarize_episodes(read_episodes(preparation.readers, preparation.index), preparation.summary_settings)]
    )


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
    summary = summary_of(preparation)
    fit = fit_summary(summary, preparation.config, preparation.spaces)
    plan = ShardPlan.of(preparation, fit)
    records = []
    for number, places in enumerate(plan.shards):
        index = plan.index.take(places)
        rows = with_splits(index, read_episodes(preparation.readers, index))
        records.append(write_shard(Folder(folder), number, rows, plan.settings))
    manifest = build_manifest(preparation, fit, plan, records)
    write_manifest(folder, manifest)
    return manifest
