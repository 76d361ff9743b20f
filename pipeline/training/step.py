"""One optimizer step: micro-batches forward and backward, one clip, one update. It never waits for the device."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.models.trajectory_transformer import TrajectoryTransformer
from pipeline.seeding import derived_seed
from pipeline.training.config import TrainingConfig
from pipeline.training.loss import LossFunction, Targets
from pipeline.training.optimizer import make_optimizer, set_learning_rate
from pipeline.training.windows import WindowBatch, share_of
from pipeline.training.world import World


@dataclass(frozen=True)
class StepResult:
    """What one step gives, on the device.

    Attributes:
        sums: (3, K) of this worker's windows: summed cross-entropy, correct predictions, counted targets by kind.
        gradient_norm: Before clipping; the same on all workers.
    """

    sums: Tensor
    gradient_norm: Tensor


def multiplies_bfloat16(device: torch.device) -> bool:
    """Returns whether the device has instructions for products of bfloat16; without them they are slower than float32.

    With them a step on a CPU takes half as long, for models of width 64 as for the paper's.
    """
    if device.type != "cpu":
        return True
    abilities = torch.cpu.get_capabilities()
    return any(abilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def autocast_dtype(config: TrainingConfig, device: torch.device) -> torch.dtype | None:
    """Returns the dtype of autocast, None for plain float32."""
    half = multiplies_bfloat16(device) if config.precision == "auto" else config.precision == "bfloat16"
    return torch.bfloat16 if half else None


class TrainStep:
    """Model, optimizer and loss together.

    Args:
        model: On the world's device.
        config: Optimizer, precision, accumulation.
        world: The workers that share each global batch.
        seed: Root seed; dropout of a step depends on it, the step and the worker, so that nothing need be saved to
            resume it.
    """

    def __init__(self, model: TrajectoryTransformer, config: TrainingConfig, world: World, seed: int) -> None:
        self.model = model
        self.optimizer = make_optimizer(model, config)
        self.loss = LossFunction(model.layout, model.config.window_transitions, config.loss_weights, world.device)
        self._config, self._world, self._seed = config, world, seed
        self.dtype = autocast_dtype(config, world.device)
        self._forward: nn.Module = world.wrap(model)
        if config.compile:
            self._forward.compile()

    def __call__(self, batch: WindowBatch, step: int, learning_rate: float) -> StepResult:
        """Updates the model with this worker's share `batch` of the global batch of `step`."""
        targets = Targets.of(batch)
        # The global count divides; DDP averages over the workers, so each multiplies by their number.
        scale = self._world.size / self._world.all_reduce_(targets.counted.sum())
        torch.manual_seed(derived_seed(self._seed, "dropout", step, self._world.rank))
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        sums = [self._backward(part, scale, last) for part, last in self._micro_batches(targets)]
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self._config.gradient_clip)
        set_learning_rate(self.optimizer, learning_rate)
        self.optimizer.step()
        return StepResult(torch.stack(sums).sum(0), norm)

    def evaluate(self, batch: WindowBatch) -> Tensor:
        """Returns the (3, K) sums of `batch` without dropout and without learning."""
        self.model.eval()
        targets = Targets.of(batch)
        with torch.no_grad(), self._autocast():
            _, sums_3K = self.loss(self.model(targets.inputs), targets)
        return sums_3K

    def _micro_batches(self, targets: Targets) -> Iterator[tuple[Targets, bool]]:
        parts = self._config.accumulation_steps
        for index in range(parts):
            yield targets.slice(share_of(len(targets.inputs), index, parts)), index == parts - 1

    def _backward(self, part: Targets, scale: Tensor, last: bool) -> Tensor:
        with self._communication(last):
            with self._autocast():
                loss, sums_3K = self.loss(self._forward(part.inputs), part)
            torch.autograd.backward(loss * scale)
        return sums_3K

    def _communication(self, wanted: bool) -> contextlib.AbstractContextManager[None]:
        if wanted or not isinstance(self._forward, DistributedDataParallel):
            return contextlib.nullcontext()
        return self._forward.no_sync()

    def _autocast(self) -> contextlib.AbstractContextManager[None]:
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self._world.device.type, self.dtype)
