from pathlib import Path

from pipeline.training.metrics import MetricsLog, last_line, read_metrics


def write(path: Path, steps: list[int], resumed: int) -> None:
    log = MetricsLog(path, path.parent / "tensorboard", resumed)
    for step in steps:
        log.write("step", {"step": step, "loss": 1.0 / step})
    log.sync()
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
    assert last_line(path) is None


def test_the_last_line_is_the_last_complete_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert last_line(path) is None
    assert read_metrics(path) == []
    write(path, list(range(1, 200)), resumed=0)
    with path.open("a") as file:
        file.write('{"kind": "st')
    line = last_line(path)
    assert line is not None
    assert line["step"] == 199


def test_tensorboard_has_the_same_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path / "metrics.jsonl", [5, 10], resumed=0)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, round(event.value, 3)) for event in events.Scalars("step/loss")] == [(5, 0.2), (10, 0.1)]
