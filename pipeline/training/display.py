"""What the terminal shows of a training: a live line between the epochs, and some rows of each epoch that stay.

It is read from the run's metrics, by whoever waits for the workers, and has every number of theirs in short words.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.beside import Beside, Repeated
from pipeline.progress import SEPARATOR, Progress, duration
from pipeline.training.metrics import MetricsTail

Line = dict[str, Any]


class Display:
    """The progress of one training.

    Args:
        progress: Where it is shown.
        metrics: The run's metrics; what they hold already is not shown again.
        measures: Names of what the objective measures.
        epochs: Of the whole training.
        reported: Epochs that are reported already in what the training continues from.
    """

    def __init__(self, progress: Progress, metrics: Path, measures: Sequence[str], epochs: int, reported: int) -> None:
        self._progress, self._measures, self._epochs, self._shown = progress, measures, epochs, reported
        self._metrics, self._tail = metrics, MetricsTail(metrics)
        self._next, self._unreadable = "the first steps", ""
        self._look = Repeated(self._new_lines, f"Reading {metrics}")
        self._new_lines()

    @property
    def awaited(self) -> str:
        """What comes next, in words."""
        return self._unreadable or self._next

    def refresh(self) -> bool:
        """Shows what is new; returns whether anything was. Storage that does not answer is not waited for."""
        late: list[Line] = []
        lines = self._look(late)
        if lines is late:
            self._unreadable = f"{self._metrics} to be readable (its storage does not answer), and for more steps"
        return self._show(lines)

    def finish(self, storage: Beside) -> None:
        """Shows what is new, however long that is waited for.

        Raises:
            StorageError: The storage does not answer.
        """
        for lines in self._look.last(storage):
            self._show(lines)

    def _show(self, lines: list[Line]) -> bool:
        for line in lines:
            # A run that continues from a checkpoint reports what came after it again.
            if line["kind"] == "epoch" and line["epoch"] > self._shown:
                self._shown = line["epoch"]
                self._progress.note(*epoch_rows(line, self._measures, self._epochs))
        if lines:
            self._next = f"steps after {lines[-1]['step']:,}"
            show(self._progress, lines[-1], self._measures)
        return bool(lines)

    def _new_lines(self) -> list[Line]:
        try:
            lines = self._tail.read()
        except OSError as error:
            self._unreadable = f"{self._metrics} to be readable ({error}), and for more steps"
            return []
        self._unreadable = ""
        return lines


def show(progress: Progress, line: Line, measures: Sequence[str]) -> None:
    """Shows a line of metrics as the progress between two epochs."""
    progress.update(
        line["step"],
        seconds_left=line.get("seconds_left"),
        details=[SEPARATOR.join(_facts(line)), *_by_name(line, measures)],
        epoch=f"{line['epoch']:.1f}",
        loss=_loss(line["loss"]),
    )


def epoch_rows(line: Line, measures: Sequence[str], epochs: int) -> list[str]:
    """Returns the rows of an epoch: its facts, and one row for each word that measures begin with.

    In brackets stands what was measured on held-out episodes.

    Args:
        line: Of kind `epoch`.
        measures: Such as `loss_action`; the loss itself is among the facts.
        epochs: Of the whole training.
    """
    facts = [f"epoch {line['epoch']:.0f}/{epochs}", f"step {line['step']:,}", f"loss {_loss(line['loss'])}"]
    if line.get("validation_loss") is not None:
        facts.append(f"validation loss {_loss(line['validation_loss'])}")
    facts += _facts(line)
    if line.get("seconds_left"):
        facts.append(f"{duration(line['seconds_left'])} left")
    return [SEPARATOR.join(facts), *_by_name(line, measures)]


def _facts(line: Line) -> list[str]:
    """Returns what is neither loss nor accuracy; what was not measured, or not yet known to the code, is left out."""
    facts = [f"lr {line['learning_rate']:.3g}", f"gradient norm {line['gradient_norm']:.3g}"]
    if line.get("tokens_per_second") is not None:
        facts.append(f"{line['tokens_per_second']:,.0f} tokens/s")
        facts.append(f"MFU {_percent(line['utilisation'])}")
        facts.append(f"input {_percent(line.get('input_share'))}")
    facts.append(f"{line['memory_gib']:.3g} GiB")
    if line.get("failed_checkpoints"):
        facts.append(f"{line['failed_checkpoints']} checkpoints FAILED")
    return facts


def _by_name(line: Line, measures: Sequence[str]) -> list[str]:
    """Returns one row for each word that measures begin with: `loss`, `accuracy`, `error`."""
    rows: dict[str, list[str]] = {}
    for name in measures:
        word, _, of = name.partition("_")
        if of:
            words = _percent if word == "accuracy" else _loss
            rows.setdefault(word, []).append(f"{of.replace('_', ' ')} {_pair(line, name, words)}")
    return [f"{word:<9}" + SEPARATOR.join(values) for word, values in rows.items()]


def _pair(line: Line, name: str, words: Callable[[float | None], str]) -> str:
    held_out = line.get(f"validation_{name}")
    return words(line[name]) + (f" ({words(held_out)})" if held_out is not None else "")


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
