"""Ray Train's trainer for a Ray in place."""

from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback


class InPlaceTrainer(TorchTrainer):  # type: ignore[misc]
    """`TorchTrainer` without the actor that gives CPUs back where its controller has died: Ray ends with this job.

    That actor asks for the controller once a second and looks for its own cluster among all processes of the machine;
    where another Ray runs, it prints 30 lines and stops.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, PlacementGroupCleanerCallback)]
