"""How fast a step is, and how much of the device it uses."""

import resource
import sys
import time

import torch

from pipeline.timing import product_flops, wait_for
from pipeline.training.schedule import Schedule

_GIB = 2**30

DATA_SHEET_BFLOAT16 = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "A10G": 70e12}
"""Dense bfloat16 FLOP/s by the makers' data sheets, by a part of the device's name."""


def peak_flops(device: torch.device, dtype: torch.dtype | None) -> float:
    """Returns what `device` can do at most, FLOP/s: the data sheet's for bfloat16 on a known GPU, else measured.

    Measured: the best of a few plain products in the training's precision.
    """
    if device.type == "cuda" and dtype is torch.bfloat16:
        name = torch.cuda.get_device_name(device)
        for part, flops in DATA_SHEET_BFLOAT16.items():
            if part in name:
                return flops
    return product_flops(device, dtype or torch.float32)


def memory_gib(device: torch.device) -> float:
    """Returns the most memory used so far, GiB: of the device's allocator on CUDA, of this process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _GIB
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _GIB


class Speed:
    """How fast a training is between two readings, in the words of a line of metrics.

    Args:
        schedule: Its steps and tokens.
        flops_per_step: What a step needs, FLOP over all workers.
        peak_flops: What all devices together can do, FLOP/s.
        device: Whose work is timed; waited for at each reading, because steps only enqueue it.
    """

    def __init__(self, schedule: Schedule, flops_per_step: float, peak_flops: float, device: torch.device) -> None:
        self._schedule, self._device = schedule, device
        self._flops_per_step, self._peak_flops = flops_per_step, peak_flops
        self.start(0)

    def start(self, step: int) -> None:
        """Starts at `step`; what happens before the next step is not counted."""
        wait_for(self._device)
        self._step, self._input_seconds, self._started = step, 0.0, time.perf_counter()

    def add_input(self, seconds: float) -> None:
        """Counts seconds that the training waited for its next windows."""
        self._input_seconds += seconds

    def read(self, step: int) -> dict[str, float | None]:
        """Returns what a line says of the time since the last reading, None where no step was done; starts again.

        `tokens_per_second`, `utilisation` (share of the peak), `input_share` (share of the time that was spent waiting
        for windows) and `seconds_left` (to the end of the training, at this speed).
        """
        wait_for(self._device)
        steps, seconds = step - self._step, time.perf_counter() - self._started
        input_seconds = self._input_seconds
        self.start(step)
        if not steps:
            return dict.fromkeys(("tokens_per_second", "utilisation", "input_share", "seconds_left"))
        return {
            "tokens_per_second": steps * self._schedule.tokens_per_step / seconds,
            "utilisation": steps * self._flops_per_step / seconds / self._peak_flops,
            "input_share": input_seconds / seconds,
            "seconds_left": (self._schedule.total_steps - step) * seconds / steps,
        }
