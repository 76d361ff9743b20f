import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from ray.exceptions import ActorDiedError
from ray.train import ControllerError, FailureConfig, WorkerGroupError
from ray.train.v2._internal.exceptions import InsufficientClusterResourcesError
from ray.train.v2._internal.execution.controller.state import (
    InitializingState,
    ReschedulingState,
    RestartingState,
    RunningState,
    SchedulingState,
    ShuttingDownState,
)
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.worker_group import WorkerGroup

import pipeline.distributed.placement
from pipeline.distributed.placement import StartLimit, StoppedWithoutWorkersError
from pipeline.distributed.termination import ToldToEndError
from pipeline.distributed.train_endings import explained
from pipeline.distributed.worker_resources import WorkerResources
from pipeline.errors import ClusterError, ManifestError

ERROR = ControllerError(RuntimeError("no room yet"))
WORKERS = WorkerResources(2, 4.0, 1.0)
GIVES_UP = (
    r"had no room for 2 workers of 4 CPUs, 1 GPUs each within workers\.start_timeout_s, 100 s; expected .*"
    r"The cluster has 8 CPUs\. Lower workers\.number"
)


@pytest.fixture
def stop_request(tmp_path: Path) -> Path:
    return tmp_path / "stop-requested"


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch, stop_request: Path) -> Callable[[float, Any], None]:
    """Tells one callback, as it comes out of the controller's process, that a state began at some second."""
    limit = cloudpickle.loads(cloudpickle.dumps(StartLimit(WORKERS, 100.0, stop_request)))
    monkeypatch.setattr(pipeline.distributed.placement, "cluster_in_words", lambda: "The cluster has 8 CPUs.")

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
    # Had it been taken for a wait, this one would be 101 s old.
    at(2101, SchedulingState(None))
    with pytest.raises(ClusterError, match=GIVES_UP):
        at(2202, ReschedulingState(ERROR))


def test_a_request_to_stop_ends_the_wait_for_workers(at: Callable[[float, Any], None], stop_request: Path) -> None:
    at(1000, SchedulingState(None))
    stop_request.touch()
    at(1001, RunningState())  # they look for it themselves
    with pytest.raises(StoppedWithoutWorkersError):
        at(1002, RestartingState(ERROR))


def test_what_a_user_can_put_right_reaches_the_user_as_it_was_said() -> None:
    told = ClusterError("no room")
    assert explained(ControllerError(told), WORKERS, 3, None) is told
    defect = ControllerError(KeyError("a defect"))
    assert explained(defect, WORKERS, 3, None) is defect


def test_workers_that_the_cluster_can_never_have_are_told_with_our_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"CPU": 16.0, "GPU": 1.0}
    monkeypatch.setattr("ray._private.state.state.get_max_resources_from_cluster_config", lambda: limits)
    with pytest.raises(InsufficientClusterResourcesError) as raised:
        WorkerGroup._check_cluster_resources_and_raise_if_insufficient(WORKERS.of_one_worker, 2)
    told = explained(ControllerError(raised.value), WORKERS, 3, None)
    expected = (
        r"can never have room for 2 workers of 4 CPUs, 1 GPUs each; expected no more than it can grow to\. "
        r'The worker group requires {"GPU": 2\.0} but the cluster only has a maximum of {"GPU": 1\.0} resources\. '
        r"Lower workers\.number, .*max_workers"
    )
    assert isinstance(told, ClusterError)
    assert re.search(expected, str(told))


def test_a_lost_controller_is_told_in_words() -> None:
    told = explained(ActorDiedError(), WORKERS, 3, Path("checkpoints/step-000000040"))
    assert isinstance(told, ClusterError)
    assert re.search(r"watches the workers ended \(The actor died .*\); expected it to outlive the training", str(told))
    assert "continues from step-000000040" in str(told)


def test_workers_that_were_told_to_end_are_no_failures() -> None:
    policy = DefaultFailurePolicy(FailureConfig(max_failures=0))
    told, beside = cloudpickle.loads(cloudpickle.dumps(ToldToEndError())), RuntimeError("Connection closed by peer")
    for _ in range(9):
        assert policy.make_decision(WorkerGroupError("long", {0: beside, 1: told})) is FailureDecision.RETRY
    assert policy.make_decision(WorkerGroupError("long", {0: beside})) is FailureDecision.RAISE


def test_what_a_user_can_put_right_ends_the_run_whichever_worker_said_it(at: Callable[[float, Any], None]) -> None:
    beside, told = RuntimeError("Connection closed by peer"), ManifestError("shard-00001.parquet is damaged")
    error = WorkerGroupError("long", {0: beside, 1: told})
    at(1000, RunningState())
    with pytest.raises(ManifestError, match=r"^shard-00001\.parquet is damaged$"):
        at(1001, RestartingState(error))
    # Without restarts Ray Train raises it at once.
    assert explained(error, WORKERS, 0, None) is told
