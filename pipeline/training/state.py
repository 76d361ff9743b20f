"""How far a run is, and the sums that its next report is made of: what resuming needs beside model and optimizer."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pipeline.training.step import StepResult
from pipeline.training.world import World


class RunningSums:
    """Sums over steps, kept on the device; float64, because an epoch counts more targets than float32 can.

    Args:
        measures: M, of the objective.
        device: That trains.
    """

    def __init__(self, measures: int, device: torch.device) -> None:
        self.sums_M2 = torch.zeros(measures, 2, dtype=torch.float64, device=device)
        self.gradient_norms = torch.zeros((), dtype=torch.float64, device=device)
        self.steps = 0

    def add(self, result: StepResult) -> None:
        """Adds one step."""
        self.sums_M2 += result.sums
        self.gradient_norms += result.gradient_norm
        self.steps += 1

    def gather(self, world: World) -> None:
        """Moves what all workers summed to worker 0; the others start again from zero."""
        world.all_reduce_(self.sums_M2)
        if world.rank > 0:
            self.sums_M2.zero_()

    def clear(self) -> None:
        """Starts again from zero."""
        self.sums_M2.zero_()
        self.gradient_norms.zero_()
        self.steps = 0

    def state_dict(self) -> dict[str, Any]:
        """Returns copies on the CPU."""
        return {
            "sums": self.sums_M2.to("cpu", copy=True),
            "gradient_norms": self.gradient_norms.to("cpu", copy=True),
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any], world: World) -> None:
        """Takes over what `state_dict` gave; the sums belong to worker 0."""
        self.gradient_norms.copy_(state["gradient_norms"])
        self.steps = state["steps"]
        if world.rank == 0:
            self.sums_M2.copy_(state["sums"])


@dataclass
class TrainingState:
    """The position of a run.

    Attributes:
        interval: Sums since the last line of kind `step`.
        epoch: Sums since the last line of kind `epoch`.
        step: Optimizer steps done; with the seed it fixes the data position, the learning rate and the dropout.
        recent_losses: Losses of the last lines, oldest first, that a jump is told from.
    """

    interval: RunningSums
    epoch: RunningSums
    step: int = 0
    recent_losses: list[float] = field(default_factory=list)

    @classmethod
    def start(cls, measures: int, device: torch.device) -> "TrainingState":
        """Returns the state before the first step, of an objective with so many measures."""
        return cls(RunningSums(measures, device), RunningSums(measures, device))

    def add(self, result: StepResult) -> None:
        """Counts one step."""
        self.interval.add(result)
        self.epoch.add(result)
        self.step += 1

    def gather(self, world: World) -> None:
        """Moves all workers' sums to worker 0; every worker calls it at the same step."""
        self.interval.gather(world)
        self.epoch.gather(world)

    def state_dict(self) -> dict[str, Any]:
        """Returns plain values and CPU tensors."""
        return {
            "step": self.step,
            "interval": self.interval.state_dict(),
            "epoch": self.epoch.state_dict(),
            "recent_losses": list(self.recent_losses),
        }

    def load_state_dict(self, state: dict[str, Any], world: World) -> None:
        """Takes over what `state_dict` gave."""
        self.step = state["step"]
        self.interval.load_state_dict(state["interval"], world)
        self.epoch.load_state_dict(state["epoch"], world)
        self.recent_losses = list(state["recent_losses"])


def host_copy(value: Any) -> Any:
    """Returns nested dicts and lists with every tensor copied to host memory, shared with nobody."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: host_copy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(host_copy(item) for item in value)
    return value
