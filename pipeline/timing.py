"""How long something takes on a device, and how fast that device is at best."""

import time
from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")
_RUNS = 6


def wait_for(device: torch.device) -> None:
    """Waits until the device has done all that it was given; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(function: Callable[[], Result], device: torch.device) -> tuple[float, Result]:
    """Returns how many seconds `function` took, and its result; the device is waited for on both sides."""
    wait_for(device)
    started = time.perf_counter()
    result = function()
    wait_for(device)
    return time.perf_counter() - started, result


def best_seconds(function: Callable[[], object], device: torch.device) -> float:
    """Returns the seconds of the fastest of a few calls."""
    return min(timed(function, device)[0] for _ in range(_RUNS))


def product_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Returns the FLOP/s of a product of two square matrices that are large enough for the device."""
    size = 1024 if device.type == "cpu" else 8192
    matrix = torch.ones(size, size, device=device, dtype=dtype)
    return 2 * size**3 / best_seconds(lambda: matrix @ matrix, device)
