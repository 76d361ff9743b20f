"""What a method is: how it is trained and how it acts. A package below this one has one; the registry lists them.

- A **method** is what is trained: one model, one objective.
- A **row** is a way in which that model acts, and a line of the table.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor, nn

from pipeline.acting import Policy
from pipeline.configuration import Config
from pipeline.data.manifest import Manifest
from pipeline.errors import CheckpointError
from pipeline.methods.settings import MethodSettings
from pipeline.methods.swept import Swept
from pipeline.planning.config import PlanningConfig
from pipeline.training.objective import Objective

S = TypeVar("S", bound=MethodSettings)

TARGET = "@"
"""Between the kind of a row and what it is asked for, in its name."""


@dataclass(frozen=True)
class Row:
    """One way in which a method acts.

    Attributes:
        name: Of its line and of the folder of its episodes.
        acting: How it acts; what a sweep changes.
    """

    name: str
    acting: Config


class Method(ABC, Generic[S]):
    """One method. It holds nothing: everything follows from the settings and the data's manifest.

    Attributes:
        name: As the setting `method` has it, and the section of its settings.
        settings: Class of that section.
        acting: Class of what says how a row acts.
        columns: Of the shards, what it reads of each step.
        loss: What the loss is measured in, for figures.
    """

    name: ClassVar[str]
    settings: ClassVar[type[MethodSettings]]
    acting: ClassVar[type[Config]]
    columns: ClassVar[tuple[str, ...]]
    loss: ClassVar[str]

    @abstractmethod
    def window(self, settings: S, manifest: Manifest) -> int:
        """Returns W, the steps of a training window."""

    @abstractmethod
    def window_tokens(self, settings: S, manifest: Manifest) -> int:
        """Returns the tokens of a window, which the schedule and the speed are counted in."""

    @abstractmethod
    def make_model(self, settings: S, manifest: Manifest) -> nn.Module:
        """Returns the model with initial weights of torch's seed, on the CPU.

        Raises:
            ConfigError: The settings do not fit the data.
        """

    @abstractmethod
    def make_objective(self, model: Any, settings: S) -> Objective:
        """Returns the loss of a model that is on the device that trains."""

    @abstractmethod
    def rows(self, kind: str, settings: S, planning: PlanningConfig, manifest: Manifest) -> Sequence[Row]:
        """Returns the rows of one of the settings' `row_kinds`, at least one.

        Raises:
            ConfigError: The settings do not fit the data.
        """

    @abstractmethod
    def swept(self, settings: S, planning: PlanningConfig, manifest: Manifest) -> Swept:
        """Returns the row that a sweep changes, and what it may change."""

    @abstractmethod
    def make_policy(self, model: Any, acting: Any, manifest: Manifest, num_slots: int, device: str) -> Policy:
        """Returns the model as it acts in episodes.

        Args:
            model: Trained, on `device`.
            acting: Of a row; `require_acting` has allowed it.
            manifest: Of the data that it was trained on.
            num_slots: Episodes that one call decides for.
            device: Where the model is.
        """

    def require_acting(self, acting: Any, trained: S) -> None:
        """Checks that a model that was trained with some settings can act so.

        Raises:
            ConfigError: It cannot.
        """

    def inputs(self, settings: S, manifest: Manifest) -> dict[str, Any]:
        """Returns what the data decides of the model, which must be the same where one training starts from another."""
        spaces = manifest.spaces
        names = (
            "observation_names",
            "action_dim",
            "action_choices",
            "action_low",
            "action_high",
            "has_whole_actions",
        )
        return {name: getattr(spaces, name) for name in names}

    def top_return_share(self, settings: S) -> float:
        """Returns which share of the timesteps is learnt from, the episodes of the best returns first."""
        return 1.0

    def foreign_weights(self, path: Path, model: Any) -> Mapping[str, Tensor]:
        """Returns the weights of a file that another code wrote.

        Raises:
            CheckpointError: It is none that this method knows.
        """
        raise CheckpointError(
            f"training.init_from is '{path}', a file; expected the folder of a checkpoint: {self.name} knows the files "
            "of no other code."
        )
