"""Which episodes are learnt from, by their return: the best of a split, up to a share of its timesteps."""

from dataclasses import dataclass

import numpy as np

from pipeline.data.manifest import Manifest
from pipeline.data.shards import read_facts
from pipeline.data.storage import Location
from pipeline.data.table import Rank, Split


@dataclass(frozen=True)
class Selection:
    """Some episodes of a split.

    Attributes:
        lowest: Rank of the worst of them, None where all are taken.
        steps: Of all of them.
    """

    lowest: Rank | None
    steps: int


def best_episodes(folder: Location, manifest: Manifest, split: Split, share: float) -> Selection:
    """Returns the best episodes that together hold at most `share` of the timesteps.

    From the best down, until one does not fit; shorter ones behind it are not tried. The best one always counts, so
    that no share leaves nothing.

    Args:
        folder: Of the shards.
        manifest: Of the shards.
        split: Whose episodes.
        share: Above 0, at most 1.

    Source: the released code of the Decision Transformer (`pct_traj`), with its `<=`.
    """
    held_out = manifest.totals.validation_steps
    total = held_out if split == "validation" else manifest.totals.steps - held_out
    if share >= 1 or not total:
        return Selection(None, total)
    lengths: dict[Rank, int] = {}
    for shard in manifest.shards:
        for row in read_facts(folder, shard).to_pylist():
            if row["split"] == split:
                rank = Rank(row["total_reward"], row["source"], row["episode_id"])
                lengths[rank] = lengths.get(rank, 0) + row["length"]
    best_first = sorted(lengths, reverse=True)
    steps = np.cumsum([lengths[rank] for rank in best_first])
    last = max(int((steps <= int(share * total)).sum()), 1) - 1
    return Selection(best_first[last], int(steps[last]))
