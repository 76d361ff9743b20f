"""The planner as its callers see it: requests of episodes in, plans out, in numpy.

The search is the one that `pipeline.references.planner` states the obvious way: same tokens from the same random
numbers. `pipeline.planning.search` has the algorithm, `pipeline.planning.decoder` the model.

Shape letters: H horizon, C context transitions, D tokens of a transition, O observation_dim, A action_dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.models.trajectory_transformer import TrajectoryTransformer
from pipeline.planning.captured import CapturedSearch
from pipeline.planning.config import PlanningConfig
from pipeline.planning.decoder import Decoder
from pipeline.planning.dense_stepper import DenseStepper
from pipeline.planning.noise import Noise, no_noise
from pipeline.planning.search import BeamSearch, SearchInputs
from pipeline.planning.stepper import SearchShape, Stepper
from pipeline.planning.weights import Weights
from pipeline.tokens.discretizer import Discretizer
from pipeline.tokens.layout import TransitionLayout

_ROWS_PER_CALL = 128
"""On a CPU episodes are searched in groups of about so many beams: more would not fit the processor's caches."""


@dataclass(frozen=True)
class PlanRequest:
    """What one episode asks for.

    Attributes:
        context: (c, D) tokens of its last c transitions, 0 to C. Value tokens are never looked at.
        observation: (O,) tokens of its current observation.
        noise: `pipeline.planning.noise.plan_noise` of its seed and step.
    """

    context: NDArray[np.integer]
    observation: NDArray[np.integer]
    noise: Noise


@dataclass(frozen=True)
class Plan:
    """The best sequence of one search.

    Attributes:
        tokens: (H, D) int64; the first row's observation is the current one.
        actions: (H, A) float64, decoded.
        rewards, values: (H,) estimates of each step.
        predicted_return: `sum_i g^i r_i + g^H V_H`, from the current step on.
    """

    tokens: NDArray[np.int64]
    actions: NDArray[np.float64]
    rewards: NDArray[np.float64]
    values: NDArray[np.float64]
    predicted_return: float


class BeamPlanner:
    """Plans for up to `num_episodes` episodes in one call.

    An episode's plan depends on its request alone, bit for bit: not on its slot, and not on what else is asked for in
    the same call, because the shapes of all computations are fixed.

    Args:
        model: Weights are copied; its dtype (float32, or float64 in tests) is the plan's.
        discretizer: Of the model's data; it decodes actions and says what reward and value bins stand for.
        config: The search.
        num_episodes: Slots.
        device: "cpu" or a CUDA device.

    Raises:
        ConfigError: The search does not fit the model's window.
    """

    def __init__(
        self,
        model: TrajectoryTransformer,
        discretizer: Discretizer,
        config: PlanningConfig,
        num_episodes: int,
        device: str | torch.device = "cpu",
    ) -> None:
        _check_window(config, model.config.window_transitions)
        self.config, self.layout, self.discretizer = config, model.layout, discretizer
        self.num_episodes, self.device = num_episodes, torch.device(device)
        self.group = _group_size(num_episodes, config.beam_width, self.device)
        shape = SearchShape(
            episodes=self.group,
            beam_width=config.beam_width,
            copies=config.expansion_factor,
            context=config.context_transitions,
            horizon=config.horizon,
            window=model.config.window_transitions,
        )
        with torch.inference_mode():
            weights = Weights(model, self.device, _product_dtype(config, model, self.device))
            centers = torch.tensor(discretizer.centers, device=self.device, dtype=weights.dtype)
            self._stepper = make_stepper(weights, self.layout, shape)
            decoder = Decoder(weights, self.layout, shape, self._stepper)
            self._search: BeamSearch | CapturedSearch = BeamSearch(
                config, decoder, centers[self.layout.reward], centers[self.layout.value]
            )
        self._idle = PlanRequest(
            np.zeros((0, self.layout.transition_dim), dtype=np.int64),
            np.zeros(self.layout.observation_dim, dtype=np.int64),
            no_noise(config, self.layout),
        )

    @torch.inference_mode()
    def plan(self, requests: Sequence[PlanRequest | None]) -> list[Plan | None]:
        """Returns one plan for each request, in order; None where none was asked for.

        Args:
            requests: At most `num_episodes`; None leaves a slot idle.
        """
        if len(requests) > self.num_episodes:
            raise ValueError(f"requests has {len(requests)} entries; expected at most {self.num_episodes}.")
        plans: list[Plan | None] = []
        for first in range(0, len(requests), self.group):
            group = requests[first : first + self.group]
            if any(group):
                found = self._plan_group(group)
                plans += [plan if request else None for request, plan in zip(group, found, strict=False)]
            else:
                plans += [None] * len(group)
        return plans

    def _plan_group(self, requests: Sequence[PlanRequest | None]) -> list[Plan]:
        filled = [request or self._idle for request in requests]
        filled += [self._idle] * (self.group - len(filled))
        inputs = self._inputs(filled)
        if self.device.type == "cuda" and isinstance(self._search, BeamSearch):
            self._search = CapturedSearch(self._search, inputs)
        with self._stepper.running():
            best = self._search(inputs)
        tokens = best.tokens.cpu().numpy()
        actions = self.discretizer.decode_columns(tokens[..., self.layout.action], self.layout.action)
        rewards, values = best.rewards.double().cpu().numpy(), best.values.double().cpu().numpy()
        returns = best.predicted_returns.tolist()
        return [Plan(*parts) for parts in zip(tokens, actions, rewards, values, returns, strict=True)]

    def _inputs(self, requests: list[PlanRequest]) -> SearchInputs:
        contexts = np.zeros((self.group, self.config.context_transitions, self.layout.transition_dim), dtype=np.int64)
        for row, request in zip(contexts, requests, strict=True):
            row[len(row) - len(request.context) :] = request.context
        arrays = (
            contexts,
            np.stack([request.observation for request in requests]).astype(np.int64),
            np.array([len(request.context) for request in requests], dtype=np.int64),
            np.stack([request.noise.actions for request in requests]),
            np.stack([request.noise.observations for request in requests]),
        )
        return SearchInputs(*(torch.from_numpy(array).to(self.device) for array in arrays))


def make_stepper(weights: Weights, layout: TransitionLayout, shape: SearchShape) -> Stepper:
    """Returns the stepper for the weights' device and number format."""
    if weights.tokens.device.type != "cpu" or weights.product_dtype == torch.bfloat16:
        return DenseStepper(weights, layout, shape)
    # Imported where it is needed: a GPU machine does without the compiler that it brings.
    from pipeline.planning.compiled_stepper import CompiledStepper

    return CompiledStepper(weights, layout, shape)


def _group_size(num_episodes: int, beam_width: int, device: torch.device) -> int:
    """Episodes that are searched together; on CUDA all of them."""
    if device.type != "cpu":
        return num_episodes
    return min(num_episodes, max(1, _ROWS_PER_CALL // beam_width))


def _product_dtype(config: PlanningConfig, model: TrajectoryTransformer, device: torch.device) -> torch.dtype:
    dtype = model.position_embedding.dtype
    half = config.precision == "bfloat16" or (config.precision == "auto" and device.type == "cuda")
    return torch.bfloat16 if half and dtype == torch.float32 else dtype


def _check_window(config: PlanningConfig, window: int) -> None:
    if config.context_transitions + 1 > window:
        raise ConfigError(
            f"planning.context_transitions is {config.context_transitions}; expected less than the model's window of "
            f"{window} transitions, which must hold the current one too. Give less context or train a longer window."
        )
    if window == 1 and config.horizon > 1:
        raise ConfigError(
            f"planning.horizon is {config.horizon}; expected 1, because the model's window of 1 transition cannot see "
            "a planned one. Train with a higher model.window_transitions."
        )
