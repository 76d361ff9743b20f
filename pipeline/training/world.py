"""The workers that train together, as one of them sees them. One worker is a world of size 1 and communicates nothing.

Ray Train starts the process group; this module only uses it, so that the loop can run and be tested without Ray.
"""

import warnings
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """One worker's place among all.

    Attributes:
        rank: 0 to size - 1; worker 0 writes metrics and checkpoints.
        size: Number of workers.
        device: Where this worker computes.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _control: torch.distributed.ProcessGroup | None = None

    @classmethod
    def of_process_group(cls, device: torch.device) -> "World":
        """Returns the world of the running process group, or a world of one where none runs.

        Decisions travel over a gloo group of their own: reading them from nccl would wait for the device.
        """
        if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
            return cls(device=device)
        control = torch.distributed.new_group(backend="gloo")
        return cls(torch.distributed.get_rank(), torch.distributed.get_world_size(), device, control)

    def all_reduce_(self, tensor: Tensor) -> Tensor:
        """Replaces `tensor` by its sum over all workers and returns it; on CUDA the host does not wait for it."""
        if self.size > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def broadcast(self, value: T) -> T:
        """Returns worker 0's `value`, anything that pickles, on every worker."""
        if self.size == 1:
            return value
        message = [value]
        torch.distributed.broadcast_object_list(message, src=0, group=self._control)
        return message[0]

    def all_reduce_max(self, *values: int) -> list[int]:
        """Returns the maximum over all workers of each of `values`, on every worker."""
        if self.size == 1:
            return list(values)
        message = torch.tensor(values)
        torch.distributed.all_reduce(message, torch.distributed.ReduceOp.MAX, group=self._control)
        return [int(value) for value in message.tolist()]

    def wrap(self, model: nn.Module) -> nn.Module:
        """Returns `model` with gradients averaged over the workers during backward."""
        if self.size == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        with warnings.catch_warnings():
            # torch 2.13 has a new name for broadcast_buffers and warns of the old one, the only one that 2.11 knows.
            warnings.simplefilter("ignore", FutureWarning)
            # The buffers are constants made from the configuration: nothing to broadcast at every forward.
            return DistributedDataParallel(model, devices, broadcast_buffers=False, gradient_as_bucket_view=True)
