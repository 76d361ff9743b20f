"""Two workers over gloo, without Ray: two processes, which all tests here look at afterwards."""

from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing

import pipeline.training.control
import pipeline.training.resume
from pipeline.errors import CheckpointError, TrainingDivergedError
from pipeline.methods.training import MethodTraining
from pipeline.training.checkpoint import last_checkpoint, list_checkpoints, read_info
from pipeline.training.world import World
from tests.training.tasks import MODEL, TRAINING, curve, make_loop, make_task, run

WITHOUT_DROPOUT = MODEL.model_copy(update={"dropout": 0.0})
KEEPS_ALL = TRAINING.model_copy(update={"keep_best": 9, "learning_rate": 6e-4})
LOSSES = {"loss", "loss_observation", "loss_action", "validation_loss", "gradient_norm", "learning_rate"}

pytestmark = pytest.mark.slow


def both(rank: int, folder: Path) -> None:
    """What each of the two processes does."""
    torch.set_num_threads(1)
    rendezvous = f"file://{folder / 'rendezvous'}"
    torch.distributed.init_process_group("gloo", rendezvous, rank=rank, world_size=2)
    pipeline.training.control.CONTROL_SECONDS = pipeline.training.control.SLOW_STEP_SECONDS = 0.0
    world = World.of_process_group(torch.device("cpu"))
    run(training_in(folder / "straight"), world=world)
    stops_at(7, training_in(folder / "broken"), world)
    run(training_in(folder / "broken"), world=world)
    stops_at(7, training_in(folder / "handed over"), world)
    continues_where_worker_0_says(folder, world)
    both_fail_with_worker_0(folder, world)
    torch.distributed.barrier()  # who ends first closes the other's connections
    torch.distributed.destroy_process_group()


def training_in(folder: Path) -> MethodTraining:
    return make_task(folder, KEEPS_ALL, WITHOUT_DROPOUT)


def stops_at(step: int, training: MethodTraining, world: World) -> None:
    """It is worker 1 that is told to."""
    loop, windows, validation = make_loop(training, world, stop_requested=lambda: world.rank == 1 and loop.step >= step)
    loop.run(windows, validation)


def continues_where_worker_0_says(folder: Path, world: World) -> None:
    """Worker 1 has an old listing of the folder, without the newest checkpoints."""
    if world.rank == 1:
        pipeline.training.resume.last_checkpoint = lambda parent: list_checkpoints(parent)[0]
    loop, _, _ = make_loop(training_in(folder / "straight"), world)
    (folder / f"step {world.rank}").write_text(str(loop.step))


def both_fail_with_worker_0(folder: Path, world: World) -> None:
    loop, windows, validation = make_loop(training_in(folder / "diverged"), world)
    with torch.no_grad():
        loop._step.model.head.weight[0, 0, 0] = torch.nan
    with pytest.raises(TrainingDivergedError, match="the loss is nan") as caught:
        loop.run(windows, validation)
    (folder / f"error {world.rank}").write_text(str(caught.value))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the two left; beside it, the same training by one."""
    folder = tmp_path_factory.mktemp("two")
    for name in ("straight", "broken", "handed over", "diverged", "alone"):
        training_in(folder / name)
    torch.multiprocessing.spawn(both, (folder,), nprocs=2)
    run(training_in(folder / "alone"))
    return folder


def assert_same(ours: Path, theirs: Path, names: set[str], tolerance: float) -> None:
    lines, others = (curve(folder / "metrics.jsonl") for folder in (ours, theirs))
    assert [(line["kind"], line["step"]) for line in lines] == [(line["kind"], line["step"]) for line in others]
    for line, other in zip(lines, others, strict=True):
        for name in names & line.keys():
            assert line[name] == pytest.approx(other[name], rel=tolerance), (line["step"], name)


def test_they_learn_the_same_as_one(trained: Path) -> None:
    # float32 sums in another order; the optimizer carries the difference on through 36 steps.
    assert_same(trained / "straight", trained / "alone", LOSSES, 1e-5)
    assert {line["workers"] for line in curve(trained / "straight" / "metrics.jsonl")} == {2}


def test_they_stop_and_resume_together_and_no_sum_is_lost(trained: Path) -> None:
    """Stopped inside an epoch and between two lines, at the wish of the worker that writes nothing."""
    # The models are equal to the bit; the sums, of float64, are added up in another order.
    names = set(curve(trained / "straight" / "metrics.jsonl")[-1]) - {"kind"}
    assert_same(trained / "broken", trained / "straight", names, 1e-12)
    assert len(list_checkpoints(trained / "broken" / "checkpoints")) == 3


def test_one_goes_on_where_two_stopped(trained: Path) -> None:
    folder = last_checkpoint(trained / "handed over" / "checkpoints")
    assert folder is not None
    assert read_info(folder).step == 7
    run(training_in(trained / "handed over"))
    assert_same(trained / "handed over", trained / "alone", LOSSES, 1e-5)


def test_all_continue_from_the_checkpoint_that_worker_0_sees(trained: Path) -> None:
    assert [(trained / f"step {rank}").read_text() for rank in (0, 1)] == ["36", "36"]


def test_an_error_of_worker_0_is_everyones(trained: Path) -> None:
    told = [(trained / f"error {rank}").read_text() for rank in (0, 1)]
    assert told[0] == told[1]


def test_a_worker_that_does_not_see_the_checkpoint_says_so(tmp_path: Path) -> None:
    class Second(World):
        def broadcast(self, _value: object) -> object:  # type: ignore[override]
            return tmp_path / "checkpoints" / "step-000000012"

    with pytest.raises(
        CheckpointError, match=r"step-000000012 is not there for worker 1 on .*; expected the checkpoint"
    ):
        make_loop(training_in(tmp_path), Second(1, 1))
