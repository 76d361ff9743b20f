"""The one list of methods."""

from typing import Any

from pipeline.errors import CheckpointError
from pipeline.methods.behaviour_cloning.method import BehaviourCloningMethod
from pipeline.methods.decision_transformer.method import DecisionTransformerMethod
from pipeline.methods.method import Method
from pipeline.methods.trajectory_transformer.method import TrajectoryTransformerMethod

METHODS: dict[str, Method[Any]] = {
    method.name: method
    for method in (BehaviourCloningMethod(), DecisionTransformerMethod(), TrajectoryTransformerMethod())
}
"""By name."""


def method_of(name: str) -> Method[Any]:
    """Returns the method that a checkpoint names.

    Raises:
        CheckpointError: There is none of that name.
    """
    if name not in METHODS:
        raise CheckpointError(f"the checkpoint is of the method {name!r}; expected one of {', '.join(METHODS)}.")
    return METHODS[name]
