import pytest
import torch

from pipeline.training import utilisation
from pipeline.training.config import TrainingConfig
from pipeline.training.schedule import Schedule
from pipeline.training.utilisation import Speed, memory_gib, peak_flops


@pytest.mark.parametrize(
    ("name", "dtype", "expected"),
    [
        ("NVIDIA H200", torch.bfloat16, 989e12),
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, 989e12),
        ("NVIDIA A100-SXM4-40GB", torch.bfloat16, 312e12),
        ("NVIDIA L40S", torch.bfloat16, 362e12),
        ("NVIDIA A10G", torch.bfloat16, 70e12),
        ("NVIDIA H100 80GB HBM3", None, 1.0),
        ("Another GPU", torch.bfloat16, 1.0),
    ],
)
def test_known_gpus_have_their_data_sheets_peak_and_others_are_measured(
    monkeypatch: pytest.MonkeyPatch, name: str, dtype: torch.dtype | None, expected: float
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    monkeypatch.setattr(utilisation, "product_flops", lambda device, dtype: 1.0)
    assert peak_flops(torch.device("cuda"), dtype) == expected


def test_this_machines_peak_is_some_gigaflops() -> None:
    assert 1e8 < peak_flops(torch.device("cpu"), None) < 1e14


def test_this_process_uses_memory() -> None:
    assert 0.01 < memory_gib(torch.device("cpu")) < 1000


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(utilisation, "time", clock)
    return clock


def make_speed() -> Speed:
    """Of 40 steps of 20 tokens and 1000 FLOP on a device of 10 000 FLOP/s."""
    config = TrainingConfig.model_validate({"epochs": 4, "batch_size": 4})
    return Speed(Schedule.of(config, num_starts=40, window_tokens=5), 1000.0, 10_000.0, torch.device("cpu"))


def test_speed_is_that_since_the_last_reading(clock: Clock) -> None:
    speed = make_speed()
    clock.now += 7.0  # before the start: the shards are read
    speed.start(8)
    for seconds in (0.25, 0.5):
        speed.add_input(seconds)
    clock.now += 1.0
    expected = {"tokens_per_second": 40.0, "utilisation": 0.2, "input_share": 0.75, "seconds_left": 30 * 0.5}
    assert speed.read(10) == pytest.approx(expected)
    clock.now += 1.0
    expected = {"tokens_per_second": 80.0, "utilisation": 0.4, "input_share": 0.0, "seconds_left": 26 * 0.25}
    assert speed.read(14) == pytest.approx(expected)


def test_without_a_step_there_is_no_speed(clock: Clock) -> None:
    speed = make_speed()
    speed.start(8)
    clock.now += 1.0
    assert set(speed.read(8).values()) == {None}


def test_work_that_is_only_enqueued_is_waited_for(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, which must not count what came before, and at each reading."""
    enqueued = [5.0]

    def wait(_device: torch.device) -> None:
        while enqueued:
            clock.now += enqueued.pop()

    monkeypatch.setattr(utilisation, "wait_for", wait)
    speed = make_speed()
    enqueued.append(5.0)
    speed.start(0)
    enqueued.append(2.0)
    assert speed.read(1)["seconds_left"] == pytest.approx(39 * 2.0)
