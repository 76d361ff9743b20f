"""One optimizer step: micro-batches forward and backward, one clip, one update. It never waits for the device."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.seeding import derived_seed
from pipeline.training.captured import CapturedUpdate
from pipeline.training.config import TrainingConfig
from pipeline.training.objective import Objective
from pipeline.training.optimizer import make_optimizer, set_learning_rate
from pipeline.training.windows import Windows, share_of
from pipeline.training.world import World


@dataclass(frozen=True)
class StepResult:
    """What one step gives, on the device; the next step may overwrite it.

    Attributes:
        sums: (M, 2) of this worker's windows: the sum and the count of each measure (`pipeline.training.objective`).
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
        objective: Its model is on the world's device.
        config: Optimizer, precision, accumulation.
        world: The workers that share each global batch.
        seed: Root seed; dropout of a step depends on it, the step and the worker, so that nothing need be saved to
            resume it.
    """

    def __init__(self, objective: Objective, config: TrainingConfig, world: World, seed: int) -> None:
        self.objective, self.model = objective, objective.model
        self.optimizer = make_optimizer(self.model, config)
        self._config, self._world, self._seed = config, world, seed
        self.dtype = autocast_dtype(config, world.device)
        self._forward: nn.Module = world.wrap(self.model)
        if config.compile:
            self._forward.compile()
        self._update: Callable[[Windows], StepResult] = self._eager
        self._learning_rate: float | Tensor = 0.0
        if config.cuda_graph and world.device.type == "cuda" and world.size == 1:
            # A number would be captured as it is; a tensor is read at every replay.
            self._update, self._learning_rate = CapturedUpdate(self._eager), torch.zeros((), device=world.device)

    def __call__(self, batch: Windows, step: int, learning_rate: float) -> StepResult:
        """Updates the model with this worker's share `batch` of the global batch of `step`."""
        self._seed_dropout(step)
        self.model.train()
        if isinstance(self._learning_rate, Tensor):
            set_learning_rate(self.optimizer, self._learning_rate.fill_(learning_rate))
        else:
            set_learning_rate(self.optimizer, learning_rate)
        return self._update(batch)

    def _eager(self, batch: Windows) -> StepResult:
        # The global count divides; DDP averages over the workers, so each multiplies by their number.
        scale = self._world.size / self._world.all_reduce_(self.objective.counted(batch))
        self.optimizer.zero_grad(set_to_none=True)
        sums = [self._backward(part, scale, last) for part, last in self._micro_batches(batch)]
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self._config.gradient_clip)
        self.optimizer.step()
        return StepResult(torch.stack(sums).sum(0), norm)

    def _seed_dropout(self, step: int) -> None:
        seed = derived_seed(self._seed, "dropout", step, self._world.rank)
        if self._world.device.type == "cpu":
            # torch.manual_seed would also note the whole stack for devices that are not there: a tenth of a small step.
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)

    def evaluate(self, batch: Windows) -> Tensor:
        """Returns the (M, 2) sums of `batch` without dropout and without learning."""
        self.model.eval()
        with torch.no_grad(), self._autocast():
            _, sums_M2 = self.objective(self.model, batch)
        return sums_M2

    def _micro_batches(self, batch: Windows) -> Iterator[tuple[Windows, bool]]:
        parts = self._config.accumulation_steps
        for index in range(parts):
            yield batch.slice(share_of(len(batch), index, parts)), index == parts - 1

    def _backward(self, part: Windows, scale: Tensor, last: bool) -> Tensor:
        with self._communication(last):
            with self._autocast():
                loss, sums_M2 = self.objective(self._forward, part)
            torch.autograd.backward(loss * scale)
        return sums_M2

    def _communication(self, wanted: bool) -> contextlib.AbstractContextManager[None]:
        if wanted or not isinstance(self._forward, DistributedDataParallel):
            return contextlib.nullcontext()
        return self._forward.no_sync()

    def _autocast(self) -> contextlib.AbstractContextManager[None]:
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self._world.device.type, self.dtype)
