"""The Decision Transformer: a GPT over steps that is asked for a return (Chen et al. 2021).

Source: section 3 of the paper and its released gym code; discrete actions as in its Atari code, drawn from the softmax.
Windows run to the right from every step, each equally likely. What is asked for goes down by what was got; where the
data's rewards are delayed it stays.
"""

from collections.abc import Sequence
from typing import Any

from pipeline.data.manifest import Manifest
from pipeline.data.table import ACTIONS, OBSERVATIONS, RETURNS_TO_GO
from pipeline.errors import ConfigError
from pipeline.methods.action_objective import ActionObjective
from pipeline.methods.decision_transformer.config import DecisionTransformerConfig, ReturnConditioning
from pipeline.methods.method import TARGET, Method, Row
from pipeline.methods.sequence import SequencePolicy, flops_per_window, of_the_data, sequence_model
from pipeline.methods.swept import Swept
from pipeline.models.decision_transformer import DecisionTransformer
from pipeline.planning.config import PlanningConfig
from pipeline.training.windows import Windows


class DecisionTransformerMethod(Method[DecisionTransformerConfig]):
    """See the module."""

    name = "decision_transformer"
    settings = DecisionTransformerConfig
    acting = ReturnConditioning
    columns = (OBSERVATIONS, ACTIONS, RETURNS_TO_GO)
    loss = "error of an action"

    def window(self, settings: DecisionTransformerConfig, manifest: Manifest) -> int:
        """Returns K."""
        return settings.context_steps

    def window_tokens(self, settings: DecisionTransformerConfig, manifest: Manifest) -> int:
        """Returns three tokens for each step: return to go, observation, action."""
        return 3 * settings.context_steps

    def make_model(self, settings: DecisionTransformerConfig, manifest: Manifest) -> DecisionTransformer:
        """Returns the model."""
        return sequence_model(settings, manifest, _return_scale(settings, manifest))

    def inputs(self, settings: DecisionTransformerConfig, manifest: Manifest) -> dict[str, Any]:
        """Returns what the data decides: spaces, rows of the table over steps, the scale of returns."""
        scale = {"return_scale": _return_scale(settings, manifest)}
        return super().inputs(settings, manifest) | of_the_data(settings, manifest) | scale

    def make_objective(self, model: DecisionTransformer, settings: DecisionTransformerConfig) -> ActionObjective:
        """Returns the mean error of the actions."""
        return ActionObjective(model, _inputs, flops_per_window(model, settings.context_steps))

    def rows(
        self, kind: str, settings: DecisionTransformerConfig, planning: PlanningConfig, manifest: Manifest
    ) -> Sequence[Row]:
        """Returns one row for each target return."""
        return [
            Row(f"{kind}{TARGET}{name}", self._acting(settings, target))
            for name, target in _targets(settings, manifest).items()
        ]

    def swept(self, settings: DecisionTransformerConfig, planning: PlanningConfig, manifest: Manifest) -> Swept:
        """Returns the first target return, and that it and the steps seen may change."""
        targets, steps = list(_targets(settings, manifest).values()), settings.context_steps
        space: dict[str, list[Any]] = {
            f"{self.name}.target_return": targets,
            f"{self.name}.context_steps": sorted({1, max(1, steps // 2), steps}),
        }
        names = {"target_return": "target_returns", "context_steps": "acting_steps"}
        return Swept(self.name, self._acting(settings, targets[0]), stored_as=names, space=space)

    @staticmethod
    def _acting(settings: DecisionTransformerConfig, target: float) -> ReturnConditioning:
        return ReturnConditioning(
            target_return=target,
            context_steps=settings.acting_steps or settings.context_steps,
            sample_actions=settings.sample_actions,
        )

    def require_acting(self, acting: ReturnConditioning, trained: DecisionTransformerConfig) -> None:
        """Checks that it sees no more steps than it was trained on.

        Raises:
            ConfigError: It would.
        """
        if acting.context_steps > trained.context_steps:
            raise ConfigError(
                f"decision_transformer.context_steps is {acting.context_steps} while acting; expected at most "
                f"{trained.context_steps}, the steps that the model was trained on."
            )

    def make_policy(
        self, model: DecisionTransformer, acting: ReturnConditioning, manifest: Manifest, num_slots: int, device: str
    ) -> SequencePolicy:
        """Returns the policy."""
        return SequencePolicy(
            model,
            manifest.spaces,
            num_slots,
            device,
            context_steps=acting.context_steps,
            sample_actions=acting.sample_actions,
            target_return=acting.target_return,
        )


def _inputs(batch: Windows) -> tuple[Any, ...]:
    return batch[OBSERVATIONS], batch[ACTIONS], batch[RETURNS_TO_GO], batch.timesteps


def _return_scale(settings: DecisionTransformerConfig, manifest: Manifest) -> float:
    return settings.return_scale or manifest.statistics.largest_return


def _targets(settings: DecisionTransformerConfig, manifest: Manifest) -> dict[str, float]:
    """Returns the returns asked for, by what rows call them: the best of the data and a half of it where none is set.

    These are called so, not by their numbers: those differ between data sets and seeds, whose rows are compared. A half
    of a return below 0 would be better than anything the data has seen: there it is the mean return instead.
    """
    given = settings.target_returns
    if given is not None:
        return {_short(target): target for target in ([given] if isinstance(given, float | int) else given)}
    best, mean = manifest.statistics.best_return, manifest.statistics.mean_return
    return {"best": best} | ({"half": best / 2} if best > 0 else {"mean": mean})


def _short(target: float) -> str:
    """Returns a target as the name of a row has it: without digits that it does not need."""
    return f"{target:g}" if float(f"{target:g}") == target else repr(target)
