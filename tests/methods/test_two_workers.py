"""Every method, trained by two workers over gloo and by one: the same curve but for the order of additions."""

from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing

from pipeline.training.world import World
from tests.methods import tiny
from tests.methods.tiny import training_of
from tests.training.tasks import TRAINING, curve, run

CONFIG = TRAINING.model_copy(update={"learning_rate": 6e-4})

pytestmark = pytest.mark.slow


def trained(folder: Path, world: World | None = None) -> None:
    for method, settings in tiny.METHODS.items():
        tiny.METHODS[method] = settings.model_copy(update={"dropout": 0.0})
        run(training_of(folder / method, method, training=CONFIG), world=world)


def worker(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    rendezvous = f"file://{folder / 'rendezvous'}"
    torch.distributed.init_process_group("gloo", rendezvous, rank=rank, world_size=2)
    trained(folder, World.of_process_group(torch.device("cpu")))
    torch.distributed.barrier()  # who ends first closes the other's connections
    torch.distributed.destroy_process_group()


def test_two_workers_have_the_curve_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "METHODS", dict(tiny.METHODS))
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for method in tiny.METHODS:
            training_of(tmp_path / folder / method, method)
    torch.multiprocessing.spawn(worker, (tmp_path / "two",), nprocs=2)
    trained(tmp_path / "one")
    for method in tiny.METHODS:
        ours, theirs = (curve(tmp_path / folder / method / "metrics.jsonl") for folder in ("two", "one"))
        assert [line["step"] for line in ours] == [line["step"] for line in theirs]
        for line, other in zip(ours, theirs, strict=True):
            numbers = {name for name in line if "loss" in name or name == "gradient_norm"}
            assert "loss" in numbers
            for name in numbers:
                assert line[name] == pytest.approx(other[name], rel=1e-4, abs=1e-6), (method, name)
