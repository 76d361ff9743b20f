"""The planner as its callers see it: requests of episodes in, plans out, in numpy.

The search is the one that `pipeline.references.planner` states the obvious way: same tokens from the same random
numbers. `pipeline.planning.search` has the algorithm, `pipeline.planning.decoder` the model.

Shape letters: H horizon, C context transitions, D tokens of a transition, O observation_dim, A action_dim.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.acting import Plan
from pipeline.errors import ConfigError
from pipeline.models.trajectory_transformer import TrajectoryTransformer
from pipeline.planning.captured import CapturedSearch
from pipeline.planning.config import PlanningConfig
from pipeline.planning.decoder import Decoder
from pipeline.planning.dense_stepper import DenseStepper
from pipeline.planning.noise import Noise, no_noise
from pipeline.planning.ranking import RANKINGS, Ranking
from pipeline.planning.search import BeamSearch, SearchInputs, SearchResult
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
        context: (c, D) tokens of its last transitions. Value tokens are never looked at, nor are transitions before the
            last C, or before the last that the model's window holds beside the current one.
        observation: (O,) tokens of its current observation.
        noise: `pipeline.planning.noise.plan_noise` of its seed and step.
    """

    context: NDArray[np.integer]
    observation: NDArray[np.integer]
    noise: Noise


class BeamPlanner:
    """Plans for up to `num_episodes` episodes in one call.

    An episode's plan depends on its request alone, bit for bit: not on its slot, and not on what else is asked for in
    the same call, because the shapes of all computations are fixed.

    Args:
        model: Weights are copied; float32, or float64 in tests.
        discretizer: Of the model's data; it decodes actions and says what reward and value bins stand for.
        config: The search.
        num_episodes: Slots.
        device: "cpu" or a CUDA device.
        ranking: What sequences are ranked by, instead of the one that `config` names.

    Raises:
        ConfigError: The model's window of one transition cannot see a planned one.
    """

    def __init__(
        self,
        model: TrajectoryTransformer,
        discretizer: Discretizer,
        config: PlanningConfig,
        num_episodes: int,
        device: str | torch.device = "cpu",
        ranking: Ranking | None = None,
    ) -> None:
        _check_window(config, model.config.window_transitions)
        self.config, self.layout, self.discretizer = config, model.layout, discretizer
        self.num_episodes, self.device = num_episodes, torch.device(device)
        self.product_dtype = _product_dtype(config, model, self.device)
        together = min(num_episodes, _episodes_per_search(config, self.device, self.product_dtype))
        self.shape = _search_shape(config, model.config.window_transitions, together)
        self._idle = PlanRequest(
            np.zeros((0, self.layout.transition_dim), dtype=np.int64),
            np.zeros(self.layout.observation_dim, dtype=np.int64),
            no_noise(config, self.layout),
        )
        with torch.inference_mode():
            weights = Weights(model, self.device, self.product_dtype)
            centers_DN = torch.tensor(discretizer.centers, device=self.device, dtype=weights.dtype)
            self._stepper = self._make_stepper()(weights, self.layout, self.shape)
            decoder = Decoder(weights, self.layout, self.shape, self._stepper)
            search = BeamSearch(config, decoder, centers_DN, ranking or RANKINGS[config.ranking])
            self._search: Callable[[SearchInputs], SearchResult] = search
            if self.device.type == "cuda":
                self._search = CapturedSearch(search, self._inputs([self._idle] * self.shape.episodes))

    @torch.inference_mode()
    def plan(self, requests: Sequence[PlanRequest | None]) -> list[Plan | None]:
        """Returns one plan for each request, in order; None where none was asked for.

        Args:
            requests: At most `num_episodes`; None leaves a slot idle.
        """
        if len(requests) > self.num_episodes:
            raise ValueError(f"requests has {len(requests)} entries; expected at most {self.num_episodes}.")
        asked = [request for request in requests if request is not None]
        groups = [asked[first : first + self.shape.episodes] for first in range(0, len(asked), self.shape.episodes)]
        plans = iter([plan for group in groups for plan in self._plan_group(group)])
        return [None if request is None else next(plans) for request in requests]

    def _make_stepper(self) -> Callable[[Weights, TransitionLayout, SearchShape], Stepper]:
        on_gpu = self.device.type == "cuda"
        return make_triton_stepper if on_gpu and self.config.gpu_kernels == "triton" else make_stepper

    def _plan_group(self, requests: list[PlanRequest]) -> list[Plan]:
        """Returns the plans of one search."""
        inputs = self._inputs(requests + [self._idle] * (self.shape.episodes - len(requests)))
        with self._stepper.running():
            best = self._search(inputs)
        tokens = best.tokens.cpu().numpy()
        actions = self.discretizer.decode_columns(tokens[..., self.layout.action], self.layout.action)
        rewards, values = best.rewards.double().cpu().numpy(), best.values.double().cpu().numpy()
        returns = best.predicted_returns.tolist()
        found = [Plan(*parts) for parts in zip(tokens, actions, rewards, values, returns, strict=True)]
        return found[: len(requests)]

    def _inputs(self, requests: list[PlanRequest]) -> SearchInputs:
        length = self.shape.context
        contexts = np.zeros((len(requests), length, self.layout.transition_dim), dtype=np.int64)
        transitions = np.array([min(len(request.context), length) for request in requests], dtype=np.int64)
        for row, request, count in zip(contexts, requests, transitions, strict=True):
            row[length - count :] = request.context[len(request.context) - count :]
        arrays = (
            contexts,
            np.stack([request.observation for request in requests]).astype(np.int64),
            transitions,
            np.stack([request.noise.actions for request in requests]),
            np.stack([request.noise.observations for request in requests]),
        )
        return SearchInputs(*(torch.from_numpy(array).to(self.device) for array in arrays))


def make_stepper(weights: Weights, layout: TransitionLayout, shape: SearchShape) -> Stepper:
    """Returns the stepper for the weights' device and number format."""
    # Imported where it is needed: a GPU machine does without the compiler that it brings.
    if _is_compiled(weights.tokens.device, weights.product_dtype):
        from pipeline.planning.compiled_stepper import CompiledStepper

        return CompiledStepper(weights, layout, shape)
    return DenseStepper(weights, layout, shape)


def make_triton_stepper(weights: Weights, layout: TransitionLayout, shape: SearchShape) -> Stepper:
    """Returns the stepper of our own kernels.

    Raises:
        ConfigError: The device does not run them, or they would round.
    """
    _check_kernels(weights.tokens.device, weights.product_dtype)
    from pipeline.planning.triton_stepper import TritonStepper, keep_kernels

    keep_kernels()
    return TritonStepper(weights, layout, shape)


def _is_compiled(device: torch.device, product_dtype: torch.dtype) -> bool:
    """Returns whether `CompiledStepper` computes there."""
    return device.type == "cpu" and product_dtype != torch.bfloat16


def _check_kernels(device: torch.device, product_dtype: torch.dtype) -> None:
    capability = torch.cuda.get_device_capability(device)
    if product_dtype == torch.float64 or capability < (8, 0):
        raise ConfigError(
            f"planning.gpu_kernels is triton, for {product_dtype} on {torch.cuda.get_device_name(device)} of compute "
            f"capability {capability[0]}.{capability[1]}; expected float32 or bfloat16, and 8.0 or later, or torch."
        )


def _episodes_per_search(config: PlanningConfig, device: torch.device, product_dtype: torch.dtype) -> int:
    """Returns how many episodes are searched together at most.

    Torch's products on a CPU give equal rows other last bits by their place, so there each episode is searched alone.
    """
    if device.type != "cpu":
        return sys.maxsize
    return max(1, _ROWS_PER_CALL // config.beam_width) if _is_compiled(device, product_dtype) else 1


def _search_shape(config: PlanningConfig, window: int, episodes: int) -> SearchShape:
    return SearchShape(
        episodes=episodes,
        beam_width=config.beam_width,
        copies=config.expansion_factor,
        context=min(config.context_transitions, window - 1),
        horizon=config.horizon,
        window=window,
    )


def _product_dtype(config: PlanningConfig, model: TrajectoryTransformer, device: torch.device) -> torch.dtype:
    dtype = model.position_embedding.dtype
    half = config.precision == "bfloat16" or (config.precision == "auto" and device.type == "cuda")
    return torch.bfloat16 if half and dtype == torch.float32 else dtype


def _check_window(config: PlanningConfig, window: int) -> None:
    if window == 1 and config.horizon > 1:
        raise ConfigError(
            f"planning.horizon is {config.horizon}; expected 1, because the model's window of 1 transition cannot see "
            "a planned one. Train with a higher trajectory_transformer.window_transitions."
        )
