"""The training of one method on some shards: what the loop is given, beside the workers."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from pipeline.data.manifest import Manifest
from pipeline.data.selection import Selection, best_episodes
from pipeline.data.shards import read_table, require_columns, step_bytes
from pipeline.data.storage import Location
from pipeline.data.table import EpisodeTable, Split
from pipeline.errors import ConfigError
from pipeline.methods.checkpoint import load_initial_weights
from pipeline.methods.method import Method
from pipeline.methods.settings import MethodSettings
from pipeline.seeding import derived_seed
from pipeline.training.objective import Objective
from pipeline.training.order import start_order
from pipeline.training.schedule import Schedule
from pipeline.training.task import TrainingTask
from pipeline.training.windows import ResidentWindows, ShuffledWindows
from pipeline.training.world import World


@dataclass(frozen=True)
class MethodTraining:
    """What is trained, on what, and how; the same for every worker.

    Attributes:
        method: What is trained.
        settings: Of the method.
        task: How, and where the record goes.
        shards: Where the data lies.
    """

    method: Method[Any]
    settings: MethodSettings
    task: TrainingTask
    shards: Location

    @property
    def manifest(self) -> Manifest:
        """Of the shards."""
        return self.task.manifest

    @property
    def window(self) -> int:
        """W, steps of a window."""
        return self.method.window(self.settings, self.manifest)

    @cached_property
    def learnt_from(self) -> Selection:
        """The episodes of the training split that are learnt from."""
        return best_episodes(self.shards, self.manifest, "train", self.method.top_return_share(self.settings))

    @cached_property
    def held_out(self) -> Selection:
        """The same of those held out."""
        return best_episodes(self.shards, self.manifest, "validation", self.method.top_return_share(self.settings))

    @cached_property
    def steps(self) -> int:
        """Of all episodes that are learnt from, those held out included."""
        return self.learnt_from.steps + self.held_out.steps

    @cached_property
    def schedule(self) -> Schedule:
        """Steps and learning rates."""
        tokens = self.method.window_tokens(self.settings, self.manifest)
        return Schedule.of(self.task.training, self.learnt_from.steps, tokens)

    def read(self) -> tuple[Selection, Selection]:
        """Returns what is learnt from, and what of it is held out. No property here reads any more after this.

        Raises:
            ManifestError: A shard is damaged.
        """
        return self.learnt_from, self.held_out

    @property
    def bytes(self) -> int:
        """What a worker holds of all episodes that are learnt from; to read it takes up to twice as much."""
        return self.steps * step_bytes(self.manifest, self.method.columns)

    @property
    def is_resident(self) -> bool:
        """Whether every worker holds all data; else it is streamed."""
        return self.bytes <= self.task.training.resident_gib * 2**30

    def check(self) -> None:
        """Checks what can be known before anything is read.

        Raises:
            ManifestError: The shards lack what the method reads.
            ConfigError: Rare episodes shall be frequent, and the data is streamed; or checkpoints shall be selected by
                what the method does not measure on this data.
        """
        require_columns(self.manifest, self.method.columns, str(self.shards))
        held_out = self.manifest.totals.validation_steps > 0
        self.task.training.require_selection(self.measures, self.method.name, held_out)
        if self.task.training.high_return_share is not None and not self.is_resident:
            raise ConfigError(
                f"training.high_return_share is set and the data, {self.bytes / 2**30:.2g} GiB, is streamed; expected "
                "data that each worker holds: raise training.resident_gib, or leave the share null."
            )

    def make_model(self) -> nn.Module:
        """Returns the model with the initial weights of the seed, on the CPU."""
        torch.manual_seed(derived_seed(self.task.seed, "initial weights"))
        return self.method.make_model(self.settings, self.manifest)

    def make_objective(self, device: torch.device) -> Objective:
        """Returns the loss of a new model on `device`."""
        return self.method.make_objective(self.make_model().to(device), self.settings)

    @cached_property
    def measures(self) -> tuple[str, ...]:
        """What is measured of this method on this data."""
        return self.make_objective(torch.device("cpu")).measures

    @property
    def load_initial(self) -> Callable[[nn.Module], None] | None:
        """Replaces a model's weights by those that `training.init_from` names, None where it names none."""
        source = self.task.training.init_from
        if source is None:
            return None
        return lambda model: load_initial_weights(model, self.method, self.settings, self.manifest, source)

    def training_windows(self, world: World) -> ShuffledWindows:
        """Returns the training windows of one worker, from episodes that it holds; for errors see `resident_windows`.

        Raises:
            ConfigError: `training.high_return_share` is set, and all episodes have the same return.
        """
        episodes, config = self._episodes("train"), self.task.training
        order = start_order(episodes, config.high_return_share, self.task.seed)
        windows = ResidentWindows(episodes, self.window, world.device)
        return ShuffledWindows(windows, order, config.batch_size, world.rank, world.size)

    def resident_windows(self, split: Split, device: torch.device) -> ResidentWindows:
        """Returns all windows of a split on `device`.

        Raises:
            ManifestError: A shard is missing or damaged.
            DataError: The split has no episode.
        """
        return ResidentWindows(self._episodes(split), self.window, device)

    def _episodes(self, split: Split) -> EpisodeTable:
        chosen = self.learnt_from if split == "train" else self.held_out
        return read_table(self.shards, split, self.method.columns, lowest=chosen.lowest)

    def recorded_as(self, config: dict[str, Any]) -> "MethodTraining":
        """Returns the same training whose checkpoints hold `config`."""
        return replace(self, task=replace(self.task, config=config))
