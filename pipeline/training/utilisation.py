"""How fast a step is, and how much of the device it uses."""

import resource
import sys
import time

import torch

from pipeline.models.trajectory_transformer import TrajectoryTransformer

_GIB = 2**30

DATA_SHEET_BFLOAT16 = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "A10G": 70e12}
"""Dense bfloat16 FLOP/s by the makers' data sheets, by a part of the device's name."""


def model_flops_per_token(model: TrajectoryTransformer) -> float:
    """Returns the floating-point operations that one trained token needs, forward and backward.

    Three times the forward pass: two for each weight of a matrix product (the head of one dimension only), and in each
    block four per embedding column for each key that the mask lets an average query see. Recomputation, embedding
    look-ups, norms and softmax are not counted.
    """
    matrices = sum(p.numel() for name, p in model.blocks.named_parameters() if p.dim() == 2)
    head = model.head.weight[0].numel()
    keys = model.mask.sum().item() / len(model.mask)
    attention = 2 * model.config.layers * model.config.width * keys
    return 3 * 2 * (matrices + head + attention)


def peak_flops(device: torch.device, dtype: torch.dtype | None) -> float:
    """Returns what `device` can do at most, FLOP/s: the data sheet's for bfloat16 on a known GPU, else measured.

    Measured: the best of a few plain products of two square matrices in the training's precision.
    """
    if device.type == "cuda" and dtype is torch.bfloat16:
        name = torch.cuda.get_device_name(device)
        for part, flops in DATA_SHEET_BFLOAT16.items():
            if part in name:
                return flops
    return _measured_flops(device, dtype or torch.float32)


def _measured_flops(device: torch.device, dtype: torch.dtype) -> float:
    size = 512 if device.type == "cpu" else 4096
    matrix = torch.ones(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        _wait(device)
        started = time.perf_counter()
        matrix @ matrix
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory_gib(device: torch.device) -> float:
    """Returns the most memory used so far, GiB: of the device's allocator on CUDA, of this process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _GIB
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _GIB


class Stopwatch:
    """Seconds per step since it was last reset."""

    def __init__(self, step: int) -> None:
        self.reset(step)

    def reset(self, step: int) -> None:
        """Starts again at `step`; what happens before the next step is not counted."""
        self._step, self._started = step, time.perf_counter()

    def lap(self, step: int) -> float | None:
        """Returns the seconds per step since the last lap or reset, None if there was no step, and starts again."""
        steps, seconds = step - self._step, time.perf_counter() - self._started
        self.reset(step)
        return seconds / steps if steps else None
