from collections.abc import Callable
from typing import Any

import cloudpickle
import pytest
from ray.train import ControllerError
from ray.train.v2._internal.execution.controller.state import (
    InitializingState,
    ReschedulingState,
    RestartingState,
    RunningState,
    SchedulingState,
    ShuttingDownState,
)

from pipeline.distributed.placement import StartLimit
from pipeline.distributed.train import explained
from pipeline.distributed.worker_resources import WorkerResources
from pipeline.errors import ClusterError

ERROR = ControllerError(RuntimeError("no room yet"))
GIVES_UP = r"had no room for 2 workers of 4 CPUs, 1 GPUs each within training\.start_timeout_s, 100 s; expected"


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, Any], None]:
    """Tells one callback, as it comes out of the controller's process, that a state began at some second."""
    limit = cloudpickle.loads(cloudpickle.dumps(StartLimit(WorkerResources(2, 4.0, 1.0), 100.0)))

    def enter(seconds: float, state: Any) -> None:
        monkeypatch.setattr("pipeline.distributed.placement.time.monotonic", lambda: seconds)
        limit.after_controller_state_update(InitializingState(), state)

    return enter


def test_workers_that_find_no_room_at_the_start_are_given_up(at: Callable[[float, Any], None]) -> None:
    at(1000, SchedulingState(None))
    at(1060, ReschedulingState(ERROR))
    at(1060, SchedulingState(None))
    with pytest.raises(ClusterError, match=GIVES_UP):
        at(1120, ReschedulingState(ERROR))


def test_the_time_counts_anew_for_workers_that_were_lost(at: Callable[[float, Any], None]) -> None:
    at(1000, SchedulingState(None))
    at(1099, RunningState())
    at(5000, RestartingState(ERROR))
    at(5090, SchedulingState(None))
    with pytest.raises(ClusterError, match=GIVES_UP):
        at(5101, ReschedulingState(ERROR))


def test_a_run_that_ends_is_left_alone(at: Callable[[float, Any], None]) -> None:
    at(1000, SchedulingState(None))
    at(2000, ShuttingDownState(RunningState()))


def test_what_a_user_can_put_right_reaches_the_user_as_it_was_said() -> None:
    told = ClusterError("no room")
    assert explained(ControllerError(told), 3, None) is told
    defect = ControllerError(KeyError("a defect"))
    assert explained(defect, 3, None) is defect
