"""The least that a method can be: a linear model that imitates actions, which it learns from the shards' values."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pipeline.acting import Decision, Policy
from pipeline.configuration import Config
from pipeline.data.manifest import Manifest
from pipeline.data.table import ACTIONS, OBSERVATIONS, RETURNS_TO_GO
from pipeline.methods.method import Method, Row
from pipeline.methods.settings import MethodSettings
from pipeline.methods.swept import Swept
from pipeline.planning.config import PlanningConfig
from pipeline.training.windows import Windows


class ToySettings(MethodSettings):
    row_kinds: ClassVar[dict[str, str]] = {"toy": "Toy"}
    default_rows: ClassVar[tuple[str, ...]] = ("toy",)
    measures: ClassVar[tuple[str, ...]] = ("loss", "error_action")

    width: int = 4
    dropout: float = 0.0


class ToyActing(Config):
    pass


class ToyObjective:
    """The squared error of the actions, and by how much the first one is off."""

    measures = ("loss", "error_action")
    flops_per_window = 100.0

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def counted(self, batch: Windows) -> Tensor:
        return batch.real.sum().float()

    def __call__(self, forward: nn.Module, batch: Windows) -> tuple[Tensor, Tensor]:
        seen = torch.cat([batch[OBSERVATIONS], batch[RETURNS_TO_GO][:, :, None]], dim=2)
        errors = (forward(seen) - batch[ACTIONS])[batch.real]
        sums = torch.stack([errors.square().sum(), errors[:, 0].abs().sum()]).detach().double()
        return errors.square().sum(), torch.stack([sums, self.counted(batch).double().expand(2)], dim=1)


class ToyMethod(Method[ToySettings]):
    name = "toy"
    settings = ToySettings
    acting = ToyActing
    columns = (OBSERVATIONS, ACTIONS, RETURNS_TO_GO)
    loss = "squared error"

    def window(self, settings: ToySettings, manifest: Manifest) -> int:
        return 3

    def window_tokens(self, settings: ToySettings, manifest: Manifest) -> int:
        return 3

    def make_model(self, settings: ToySettings, manifest: Manifest) -> nn.Module:
        spaces = manifest.spaces
        return nn.Sequential(
            nn.Linear(spaces.observation_dim + 1, settings.width),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.width, spaces.action_dim),
        )

    def make_objective(self, model: Any, settings: ToySettings) -> ToyObjective:
        return ToyObjective(model)

    def rows(self, kind: str, settings: ToySettings, planning: PlanningConfig, manifest: Manifest) -> Sequence[Row]:
        return [Row(kind, ToyActing())]

    def swept(self, settings: ToySettings, planning: PlanningConfig, manifest: Manifest) -> Swept:
        return Swept("toy", ToyActing())

    def make_policy(self, model: Any, acting: Any, manifest: Manifest, num_slots: int, device: str) -> Policy:
        return ToyPolicy(model, num_slots)


class ToyPolicy:
    """Asks for a return of 0."""

    def __init__(self, model: nn.Module, num_slots: int) -> None:
        self.num_slots, self._model = num_slots, model

    def reset(self, slot: int, seed: int) -> None:
        pass

    def act(self, observations: Mapping[int, Any]) -> dict[int, Decision]:
        return {slot: Decision(self._act(observation)) for slot, observation in observations.items()}

    @torch.no_grad()
    def _act(self, observation: Any) -> Any:
        return self._model(torch.tensor([*observation, 0.0], dtype=torch.float32)).double().numpy()

    def record(self, slot: int, action: Any, reward: float) -> None:
        pass
