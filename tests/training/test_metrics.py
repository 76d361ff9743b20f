import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import StorageError
from pipeline.training import metrics
from pipeline.training.metrics import MetricsLog, MetricsTail, read_metrics


def write(path: Path, steps: list[int], resumed: int) -> None:
    log = MetricsLog(path, path.parent / "tensorboard", resumed, 0)
    for step in steps:
        log.write("step", {"step": step, "loss": 1.0 / step})
    log.close()


def test_a_resumed_run_reports_each_step_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, [5, 10, 15], resumed=0)
    with path.open("a") as file:
        file.write('{"kind": "step", "st')  # the process was killed in the middle of a line
    write(path, [15, 20], resumed=12)
    assert [line["step"] for line in read_metrics(path)] == [5, 10, 15, 20]


def test_a_new_run_starts_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, [5], resumed=0)
    write(path, [], resumed=0)
    assert read_metrics(path) == []


def test_an_epoch_that_the_checkpoint_has_not_reported_is_reported_again(tmp_path: Path) -> None:
    """A run was killed between an epoch's line and the checkpoint after it; the one before it is of the same step."""
    path = tmp_path / "metrics.jsonl"
    for resumed in (0, 1):
        log = MetricsLog(path, tmp_path / "tensorboard", 24 * resumed, resumed)
        for epoch in (1, 2)[resumed:]:
            log.write("step", {"step": 12 * epoch + resumed, "epoch": epoch})
            log.write("epoch", {"step": 12 * epoch, "epoch": epoch})
        log.close()
    lines = [(line["kind"], line["step"]) for line in read_metrics(path)]
    assert lines == [("step", 12), ("epoch", 12), ("step", 24), ("step", 25), ("epoch", 24)]


class TestTail:
    def test_it_gives_each_complete_line_once(self, tmp_path: Path) -> None:
        path = tmp_path / "metrics.jsonl"
        tail = MetricsTail(path)
        assert tail.read() == []
        with path.open("a") as file:
            for text, steps in (('{"step": 5}\n{"st', [5]), ('ep": 10}\n', [10]), ("", [])):
                file.write(text)
                file.flush()
                assert [line["step"] for line in tail.read()] == steps

    def test_it_starts_again_where_the_file_was_replaced(self, tmp_path: Path) -> None:
        """By a longer one too; half of a line in the old file is no beginning of the new one's."""
        path = tmp_path / "metrics.jsonl"
        write(path, [5, 10], resumed=0)
        with path.open("a") as file:
            file.write('{"kind": "st')
        tail = MetricsTail(path)
        assert [line["step"] for line in tail.read()] == [5, 10]
        write(path, [6, 7, 8, 9], resumed=5)
        assert [line["step"] for line in tail.read()] == [5, 6, 7, 8, 9]


def test_tensorboard_has_the_same_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path / "metrics.jsonl", [5, 10], resumed=0)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, round(event.value, 3)) for event in events.Scalars("step/loss")] == [(5, 0.2), (10, 0.1)]


class FullForAWhile:
    """A file whose disk takes half of a line, then nothing, then all."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._takes: list[Callable[[bytes], int]] = [self._half, self._nothing]

    def _half(self, content: bytes) -> int:
        return int(self._file.write(content[: len(content) // 2]))

    def _nothing(self, content: bytes) -> int:
        raise OSError(28, f"No space left on device for {len(content)} bytes")

    def write(self, content: bytes) -> int:
        return self._takes.pop(0)(content) if self._takes else self._file.write(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_a_disk_that_is_full_for_a_while_loses_no_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", tmp_path / "tensorboard", 0, 0)
    log._file = FullForAWhile(log._file)  # type: ignore[assignment]
    for step in (5, 10):
        log.write("step", {"step": step, "loss": 1.0})
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [5, 10]
    assert re.findall(r"line of step (\d+) is not yet written .*No space left", caplog.text) == ["5"]
    log.close()


def test_a_disk_that_stays_full_lets_the_training_go_on_but_not_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", tmp_path / "tensorboard", 0, 0, lambda _: None)
    log._file = open("/dev/full", "ab", buffering=0)  # noqa: PTH123, SIM115
    for step in (5, 10):
        log.write("step", {"step": step, "loss": 1.0})
    assert len(re.findall("is not yet written", caplog.text)) == 1
    with pytest.raises(OSError, match="No space left"):
        log.sync()
    with pytest.raises(
        StorageError, match=r"end of the record could not be written to .*metrics\.jsonl .*No space left"
    ):
        log.close()


def test_a_number_that_is_not_finite_is_a_defect(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", tmp_path / "tensorboard", 0, 0)
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.write("step", {"step": 5, "loss": float("nan")})
    log.close()


def test_a_folder_that_cannot_be_written_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"record of the run could not be written to .*File exists"):
        MetricsLog(tmp_path / "file" / "metrics.jsonl", tmp_path / "tensorboard", 0, 0, lambda _: None)


class TestTensorBoardsWriter:
    """It has failed, as it does for good when its disk was full once."""

    @pytest.fixture
    def log(self, tmp_path: Path) -> MetricsLog:
        log = MetricsLog(tmp_path / "metrics.jsonl", tmp_path / "tensorboard", 0, 0, lambda _: None)
        log.write("step", {"step": 5, "loss": 0.25})
        log.sync()
        log._events.file_writer.event_writer._async_writer._worker.exception = OSError(28, "No space left on device")
        return log

    def test_goes_on_in_another_file_and_hides_nothing_of_the_one_before(
        self, tmp_path: Path, log: MetricsLog, caplog: pytest.LogCaptureFixture
    ) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        log.write("step", {"step": 10, "loss": 0.5})
        log.close()
        events = EventAccumulator(str(tmp_path / "tensorboard"))
        events.Reload()
        assert [(event.step, event.value) for event in events.Scalars("step/loss")] == [(5, 0.25), (10, 0.5)]
        assert re.search(r"TensorBoard's file in .* \(.*No space left.*\); it goes on in another one", caplog.text)

    def test_costs_no_line_and_no_checkpoint_where_no_other_file_can_be_made(
        self, tmp_path: Path, log: MetricsLog, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr(metrics, "SummaryWriter", refuse)
        for step in (10, 15):
            log.write("step", {"step": step, "loss": 0.5})
            log.sync()
        log.close()
        assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [5, 10, 15]
        told = [record.getMessage() for record in caplog.records]
        assert len(told) == 1
        assert re.search(
            r"No space left.*nor another one \(.*Read-only.*\); \S*metrics\.jsonl has all numbers", told[0]
        )
