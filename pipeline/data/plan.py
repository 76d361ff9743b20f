"""What is prepared and how it is shared out: the decisions between the two passes over the data."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.data.config import DataConfig, SourceConfig
from pipeline.data.fit import Fit
from pipeline.data.index import EpisodeIndex, build_index, with_validation
from pipeline.data.shards import ShardSettings
from pipeline.data.sources import Listing, Source
from pipeline.data.spaces import Spaces
from pipeline.data.summary import SummarySettings
from pipeline.data.table import Split
from pipeline.errors import DataError
from pipeline.records import Episode


@dataclass(frozen=True)
class Preparation:
    """Everything that is known before an episode is read.

    Attributes:
        config: The configuration.
        seed: Root seed.
        sources: Data sets, each with its part of the configuration.
        listings: The episodes of each of them.
        index: The episodes chosen.
        spaces: The columns, the same for all sources.
    """

    config: DataConfig
    seed: int
    sources: tuple[tuple[Source, SourceConfig], ...]
    listings: tuple[Listing, ...]
    index: EpisodeIndex
    spaces: Spaces

    @classmethod
    def of(cls, sources: Sequence[tuple[Source, SourceConfig]], config: DataConfig, seed: int) -> "Preparation":
        """Chooses the episodes and checks that the sources fit together.

        Raises:
            DataError: A source that is empty or damaged, or sources of different spaces.
            StorageError: The machine does not let one be read.
        """
        listings = tuple(source.listing() for source, _ in sources)
        index = build_index(sources, listings, seed)
        return cls(config, seed, tuple(sources), listings, index, _common_spaces([source for source, _ in sources]))

    @property
    def readers(self) -> list[Source]:
        """The sources alone, in order."""
        return [source for source, _ in self.sources]

    @property
    def origin(self) -> str:
        """Names everything that shards depend on: what the data sets hold, the choice of episodes, the settings."""
        prints = [(source.name, source.fingerprint()) for source in self.readers]
        hasher = hashlib.sha256(json.dumps([prints, self.seed, self.config.preparation()], sort_keys=True).encode())
        hasher.update(self.index.sources.tobytes() + self.index.ids.tobytes())
        return hasher.hexdigest()

    @property
    def summary_settings(self) -> SummarySettings:
        """What the first pass depends on."""
        config = self.config
        columns = self.spaces.observation_dim + self.spaces.action_dim + 2
        # At least 1: where no episode has steps, the pass over them says so.
        share = min(1.0, config.sample_numbers / max(1, self.index.steps * columns))
        return SummarySettings(
            spaces=self.spaces,
            treatment=config.reward_treatment,
            drop_invalid=config.on_invalid == "drop",
            sample_share=share,
            seed=self.seed,
        )


@dataclass(frozen=True)
class ShardPlan:
    """What the second pass writes, decided by the first.

    Attributes:
        index: The valid episodes, some of them held out.
        shards: Range of `index` of each shard.
        settings: What every shard's content depends on.
    """

    index: EpisodeIndex
    shards: list[slice]
    settings: ShardSettings

    @classmethod
    def of(cls, preparation: Preparation, fit: Fit) -> "ShardPlan":
        """Shares the valid episodes out over shards and splits."""
        config, summary = preparation.config, fit.summary
        none_yet = np.zeros(len(summary.ids), dtype=np.bool_)
        valid = EpisodeIndex(summary.sources, summary.ids, summary.lengths, none_yet)
        index = with_validation(valid, config.validation_share, preparation.seed)
        settings = ShardSettings(
            discretizer=fit.discretizer,
            treatment=config.reward_treatment,
            store=config.store,
            steps_per_row=config.steps_per_row,
            origin=preparation.origin,
        )
        return cls(index, index.blocks(config.steps_per_shard), settings)


def with_splits(index: EpisodeIndex, episodes: Iterator[tuple[int, Episode]]) -> Iterator[tuple[Episode, Split]]:
    """Yields the episodes of `index`, each with the split that it belongs to."""
    for (_, episode), held_out in zip(episodes, index.held_out.tolist(), strict=True):
        yield episode, "validation" if held_out else "train"


def _common_spaces(sources: Sequence[Source]) -> Spaces:
    """Returns the spaces of the first source, if all others have the same columns."""
    first = sources[0]
    for source in sources[1:]:
        ours, theirs = first.spaces, source.spaces
        if (ours.observation_names, ours.action_dim, ours.action_choices) != (
            theirs.observation_names,
            theirs.action_dim,
            theirs.action_choices,
        ):
            raise DataError(
                f"{source.name} has {theirs.observation_dim} observation and {theirs.action_dim} action columns; "
                f"expected {ours.observation_dim} and {ours.action_dim} of the same names and kinds as {first.name}. "
                "Mix only data sets of one environment."
            )
        bounds = [(spaces.action_low, spaces.action_high) for spaces in (ours, theirs)]
        if None not in (ours.action_low, theirs.action_low) and bounds[0] != bounds[1]:
            raise DataError(
                f"{source.name} has actions between {theirs.action_low} and {theirs.action_high}; expected the bounds "
                f"of {first.name}, {ours.action_low} and {ours.action_high}, by which networks scale actions. Mix only "
                "data sets of one environment."
            )
    return first.spaces
