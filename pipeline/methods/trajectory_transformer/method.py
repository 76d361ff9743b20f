"""The Trajectory Transformer: a GPT over the tokens of transitions, which plans by beam search (Janner et al. 2021)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.data.manifest import Manifest
from pipeline.data.table import TOKENS
from pipeline.errors import ConfigError
from pipeline.methods.method import Method, Row
from pipeline.methods.swept import Swept
from pipeline.methods.trajectory_transformer.config import TrajectoryTransformerConfig
from pipeline.methods.trajectory_transformer.objective import TokenObjective
from pipeline.methods.trajectory_transformer.policy import PlannerPolicy
from pipeline.models.import_checkpoint import import_checkpoint
from pipeline.models.trajectory_transformer import TrajectoryTransformer
from pipeline.planning.config import PlanningConfig

_BY_LIKELIHOOD = {"ranking": "log_likelihood", "plan_every": 1}

CHANGES = {"one_step": {"horizon": 1, **_BY_LIKELIHOOD}, "imitation": _BY_LIKELIHOOD, "trajectory_transformer": {}}
"""What a row changes of the planning: `one_step` takes the most likely of the sampled actions, `imitation` the first
action of the most likely whole plan."""


class TrajectoryTransformerMethod(Method[TrajectoryTransformerConfig]):
    """See the module."""

    name = "trajectory_transformer"
    settings = TrajectoryTransformerConfig
    acting = PlanningConfig
    columns = (TOKENS,)
    loss = "weighted nats per token"

    def window(self, settings: TrajectoryTransformerConfig, manifest: Manifest) -> int:
        """Returns the transitions of a window."""
        return settings.window_transitions

    def window_tokens(self, settings: TrajectoryTransformerConfig, manifest: Manifest) -> int:
        """Returns the targets of a window: the last token of it predicts nothing."""
        return settings.window_transitions * manifest.layout.transition_dim - 1

    def make_model(self, settings: TrajectoryTransformerConfig, manifest: Manifest) -> TrajectoryTransformer:
        """Returns the model."""
        return TrajectoryTransformer(settings, manifest.layout)

    def make_objective(self, model: TrajectoryTransformer, settings: TrajectoryTransformerConfig) -> TokenObjective:
        """Returns the weighted cross-entropy."""
        return TokenObjective(model, settings.loss_weights)

    def rows(
        self, kind: str, settings: TrajectoryTransformerConfig, planning: PlanningConfig, manifest: Manifest
    ) -> Sequence[Row]:
        """Returns the one row of a kind."""
        _require_discount(planning, manifest)
        return [Row(kind, planning.model_copy(update=CHANGES[kind]))]

    def swept(self, settings: TrajectoryTransformerConfig, planning: PlanningConfig, manifest: Manifest) -> Swept:
        """Returns the planner, all of whose settings may change but the discount: it is that of the values learnt."""
        _require_discount(planning, manifest)
        space = {"planning.beam_width": [32, 64, 128], "planning.horizon": [5, 10, 15]}
        return Swept("planning", planning, fixed=("discount",), space=space)

    def make_policy(
        self, model: TrajectoryTransformer, acting: PlanningConfig, manifest: Manifest, num_slots: int, device: str
    ) -> PlannerPolicy:
        """Returns the planner."""
        return PlannerPolicy(model, manifest.discretizer, acting, num_slots, device)

    def inputs(self, settings: TrajectoryTransformerConfig, manifest: Manifest) -> dict[str, Any]:
        """Returns what each token means; bin edges may differ, as starting from other data is the point."""
        return vars(manifest.layout)

    def foreign_weights(self, path: Path, model: TrajectoryTransformer) -> Mapping[str, Tensor]:
        """Returns the weights of a `state_*.pt` of the paper's public code."""
        return import_checkpoint(path, model.config, model.layout)


def _require_discount(planning: PlanningConfig, manifest: Manifest) -> None:
    learnt = manifest.treatment.discount
    if planning.discount != learnt:
        raise ConfigError(
            f"planning.discount is {planning.discount}; expected {learnt}, the discount of the values that the model "
            "learnt: a plan's rewards are added to one of them. Set planning.discount and data.discount to it, or "
            "prepare and train under another --name."
        )
