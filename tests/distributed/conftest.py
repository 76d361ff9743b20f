"""Fixtures of a training's driver without Ray Train."""

import pytest
import ray
import ray.train.torch
import torch

import pipeline.distributed.train
from pipeline.distributed import termination
from pipeline.progress import Progress
from tests.distributed.driver import Trainer, Waits


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> type[Trainer]:
    """The stand-in, on a machine of two CPUs."""

    class Fresh(Trainer):
        pass

    monkeypatch.setattr(pipeline.distributed.train, "InPlaceTrainer", Fresh)
    monkeypatch.setattr(ray.train.torch, "get_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}])
    monkeypatch.setattr(termination, "requested", lambda: False)
    monkeypatch.setattr(pipeline.distributed.train, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(pipeline.distributed.train, "POLL_SECONDS", 0.01)
    return Fresh


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    waits = Waits()
    monkeypatch.setattr(Progress, "wait", lambda _progress, what: waits.show(what))
    return waits
