"""Behaviour cloning: the data's actions, predicted from observations alone.

Source: Chen et al. 2021, section 4, where %BC learns from the best episodes. Deviations: the MLP sees one observation
and learns from every step of an episode; the released one sees 20 stacked ones, never learns the first 19 steps of an
episode and the last one 20 times.
"""

from collections.abc import Sequence
from typing import Any

from torch import nn

from pipeline.acting import Policy
from pipeline.data.manifest import Manifest
from pipeline.data.table import ACTIONS, OBSERVATIONS
from pipeline.methods.action_objective import ActionObjective
from pipeline.methods.behaviour_cloning.config import BehaviourCloningConfig, CloningConfig
from pipeline.methods.behaviour_cloning.policy import ReactivePolicy
from pipeline.methods.method import Method, Row
from pipeline.methods.sequence import SequencePolicy, flops_per_window, of_the_data, sequence_model
from pipeline.methods.swept import Swept
from pipeline.models.decision_transformer import DecisionTransformer
from pipeline.models.mlp import ActionMlp
from pipeline.planning.config import PlanningConfig
from pipeline.training.objective import Objective
from pipeline.training.windows import Windows


class BehaviourCloningMethod(Method[BehaviourCloningConfig]):
    """See the module."""

    name = "behaviour_cloning"
    settings = BehaviourCloningConfig
    acting = CloningConfig
    columns = (OBSERVATIONS, ACTIONS)
    loss = "error of an action"

    def window(self, settings: BehaviourCloningConfig, manifest: Manifest) -> int:
        """Returns the steps of a window: 1 for the MLP, which sees no others."""
        return 1 if settings.architecture == "mlp" else settings.context_steps

    def window_tokens(self, settings: BehaviourCloningConfig, manifest: Manifest) -> int:
        """Returns 1 for the MLP, and two tokens for each step that the Transformer sees."""
        return 1 if settings.architecture == "mlp" else 2 * settings.context_steps

    def make_model(self, settings: BehaviourCloningConfig, manifest: Manifest) -> ActionMlp | DecisionTransformer:
        """Returns the MLP, or the Transformer without return tokens."""
        if settings.architecture == "transformer":
            return sequence_model(settings, manifest, return_scale=None)
        mean, deviation = manifest.statistics.moments(manifest.spaces.observation_dim)
        return ActionMlp(settings, manifest.spaces, mean, deviation)

    def inputs(self, settings: BehaviourCloningConfig, manifest: Manifest) -> dict[str, Any]:
        """Returns what the data decides: spaces, and rows of a Transformer's table over steps."""
        table = of_the_data(settings, manifest) if settings.architecture == "transformer" else {}
        return super().inputs(settings, manifest) | table

    def make_objective(self, model: nn.Module, settings: BehaviourCloningConfig) -> Objective:
        """Returns the mean error of the actions."""
        if isinstance(model, DecisionTransformer):
            return ActionObjective(model, _history, flops_per_window(model, settings.context_steps))
        weights = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() == 2)
        return ActionObjective(model, lambda batch: (batch[OBSERVATIONS],), flops_per_window=3 * 2 * weights)

    def top_return_share(self, settings: BehaviourCloningConfig) -> float:
        """Returns the setting."""
        return settings.top_return_share

    def rows(
        self, kind: str, settings: BehaviourCloningConfig, planning: PlanningConfig, manifest: Manifest
    ) -> Sequence[Row]:
        """Returns the one row."""
        return [Row(kind, CloningConfig(sample_actions=settings.sample_actions))]

    def swept(self, settings: BehaviourCloningConfig, planning: PlanningConfig, manifest: Manifest) -> Swept:
        """Returns that there is only whether discrete actions are drawn."""
        acting, discrete = CloningConfig(sample_actions=settings.sample_actions), manifest.spaces.action_choices
        space: dict[str, list[Any]] = {f"{self.name}.sample_actions": [True, False]} if discrete else {}
        return Swept(self.name, acting, fixed=() if discrete else ("sample_actions",), space=space)

    def make_policy(
        self, model: nn.Module, acting: CloningConfig, manifest: Manifest, num_slots: int, device: str
    ) -> Policy:
        """Returns the policy."""
        if not isinstance(model, DecisionTransformer):
            return ReactivePolicy(model, manifest.spaces, num_slots, device, acting.sample_actions)
        return SequencePolicy(
            model, manifest.spaces, num_slots, device, model.context_steps, acting.sample_actions, target_return=None
        )


def _history(batch: Windows) -> tuple[Any, ...]:
    return batch[OBSERVATIONS], batch[ACTIONS], None, batch.timesteps
