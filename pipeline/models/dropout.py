"""Dropout that is cheap on a CPU.

torch draws one random number per element on one thread there, which costs more than the matrix product beside it: 230
of the 800 ms of a training step of the paper's model (batch 64, two cores). Here 16 random bits decide one element,
from a generator that torch's own seeds, so `torch.manual_seed` still decides everything. On other devices torch's own
dropout is used.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.nn import functional

_LEVELS = 2**16
_BITS = {2: torch.uint16, 4: torch.uint32, 8: torch.uint64}


# The tracer would go into Numba's own compiler, and fail. `torch.compiler.disable` says the same, but imports the
# tracer at once: a second and a half of every process that evaluates.
@_disable_dynamo
def scaled_mask(shape: torch.Size, probability: float, dtype: torch.dtype) -> Tensor:
    """Returns zeros with `probability`, rounded to 1 / 65536, and what keeps the mean at 1 elsewhere, on the CPU."""
    # Imported where it is needed: a GPU machine does without the compiler that it brings.
    from pipeline.models.kernels import draw_mask

    dropped, count = round(probability * _LEVELS), math.prod(shape)
    seed = int(torch.randint(2**62, ()).item())
    kept = torch.tensor(_LEVELS / (_LEVELS - dropped), dtype=dtype)
    # numpy has no bfloat16: patterns of bits are written.
    bits = _BITS[kept.itemsize]
    pattern = kept.view(bits).numpy()[()]
    mask = torch.empty(-(-count // 8) * 8, dtype=bits)
    draw_mask(np.uint64(seed), np.uint64(dropped), pattern, mask.numpy())
    return mask[:count].view(dtype).view(shape)


class Dropout(nn.Module):
    """As `torch.nn.Dropout`.

    Args:
        probability: Of an element to become zero, 0 to below 1.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` with some elements zero and the others scaled, or `x` itself in evaluation mode."""
        if not self.training or self.probability == 0:
            return x
        if x.device.type != "cpu":
            return functional.dropout(x, self.probability)
        mask: Tensor = scaled_mask(x.shape, self.probability, x.dtype)
        return x * mask
