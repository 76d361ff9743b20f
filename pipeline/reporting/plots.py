"""The figures of data, training and evaluation; each a function from plain numbers to a drawing."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator, NullFormatter, ScalarFormatter
from numpy.typing import NDArray

from pipeline.data.statistics import ReturnStatistics
from pipeline.records import EpisodeResult
from pipeline.reporting.figures import INK, Drawing, canvas, drawing, styled
from pipeline.reporting.methods import DATA, colours, label
from pipeline.reporting.table import ResultRow

TRAIN, VALIDATION = "#a9b1bb", "#3f6fd8"


@styled
def returns_by_source(sources: Sequence[ReturnStatistics], rows: Sequence[ResultRow]) -> Drawing:
    """Histograms of the data's returns, one panel for each source, with the methods' means marked.

    Args:
        sources: At least one.
        rows: The result table, empty before an evaluation; the data's own row is not marked.
    """
    methods = [row for row in rows if row.method != DATA]
    palette = colours(row.method for row in rows)
    figure, axes = canvas(0.9 + 1.4 * len(sources), rows=len(sources), share_x=True)
    for ax, source in zip(axes, sources, strict=True):
        ax.stairs(source.histogram_counts, source.histogram_edges, fill=True, color=palette[DATA])
        ax.grid(axis="x", visible=False)
        ax.set_title(source.source)
        ax.set_ylabel("episodes")
        ax.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        for row in methods:
            ax.axvline(row.mean_return, color=palette[row.method], linewidth=1.8, label=label(row.method))
    axes[-1].set_xlabel("return of an episode (sum of rewards)")
    if methods:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=2)
    means = ", ".join(f"{source.source}: mean {source.mean:.4g}" for source in sources)
    return drawing(
        figure,
        "Returns in the data",
        f"Histogram of episode returns for each source. {means}.",
        "Grey: episodes of the behaviour data. Lines: what each evaluated method reaches on average.",
    )


@styled
def measures_by_name(steps: list[dict[str, Any]], epochs: list[dict[str, Any]], word: str, unit: str) -> Drawing:
    """The measures that begin with a word over the tokens seen, training and validation, a panel for each.

    Args:
        steps: Lines of metrics of that kind.
        epochs: Lines of metrics of that kind.
        word: Such as `loss`, of which there must be some (`measured_parts`).
        unit: Of the measures.
    """
    parts = measured_parts([*steps, *epochs], word)
    lines = math.ceil(len(parts) / 2)
    figure, axes = canvas(0.3 + 1.7 * lines, rows=lines, columns=min(2, len(parts)), share_x=True)
    for ax, part in zip(axes, parts, strict=False):
        _curve(ax, steps, f"{word}_{part}", TRAIN, "training")
        _curve(ax, epochs, f"validation_{word}_{part}", VALIDATION, "validation")
        ax.set_title(part.replace("_", " "))
    for ax in axes[max(0, len(parts) - 2) : len(parts)]:
        ax.set_xlabel("tokens seen (millions)")
        ax.tick_params(labelbottom=True)  # also where the panel below is none
    for ax in axes[::2]:
        ax.set_ylabel(unit)
    for ax in axes[len(parts) :]:
        ax.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=2)
    return drawing(
        figure,
        f"{word.capitalize()} by kind",
        f"One panel each, training and validation: {word} of {', '.join(parts)}.",
        "Unweighted. Training is measured with dropout on, validation with dropout off.",
    )


def measured_parts(lines: Sequence[dict[str, Any]], word: str) -> list[str]:
    """Returns of what the lines have a measure that begins with a word, such as `action` of `loss_action`."""
    names = dict.fromkeys(name for line in lines for name in line)
    return [name.removeprefix(f"{word}_") for name in names if name.startswith(f"{word}_")]


@styled
def total_loss(steps: list[dict[str, Any]], epochs: list[dict[str, Any]], unit: str) -> Drawing:
    """The loss that is minimised, in its `unit`, over the tokens seen."""
    figure, (ax,) = canvas(2.6)
    _curve(ax, steps, "loss", TRAIN, "training")
    _curve(ax, epochs, "validation_loss", VALIDATION, "validation")
    ax.set_xlabel("tokens seen (millions)")
    ax.set_ylabel(unit)
    ax.legend(loc="upper right")
    finite = [line["validation_loss"] for line in epochs if line.get("validation_loss") is not None]
    last = f" The last validation loss is {finite[-1]:.3f}." if finite else ""
    return drawing(figure, "Loss", f"Training and validation loss over the tokens seen.{last}", last.strip())


def _curve(ax: Any, lines: list[dict[str, Any]], key: str, colour: str, name: str) -> None:
    points = [(line["tokens"] / 1e6, line[key]) for line in lines if line.get(key) is not None]
    if not points:
        return
    x, y = zip(*points, strict=True)
    marker = "o" if len(points) <= 60 else None
    ax.plot(x, y, color=colour, label=name, marker=marker, markersize=2.5)


@styled
def returns_by_method(episodes: Mapping[str, Sequence[EpisodeResult]], rows: Sequence[ResultRow]) -> Drawing:
    """Every episode's return as one dot, each method's mean and interval above them, the data's mean as a line."""
    shown = [row for row in rows if row.method in episodes]
    palette = colours(row.method for row in rows)
    figure, (ax,) = canvas(0.8 + 0.62 * len(shown))
    for y, row in enumerate(shown):
        returns = np.array([result.total_reward for result in episodes[row.method] if not result.error])
        ax.scatter(returns, y + _spread(returns), s=11, color=palette[row.method], alpha=0.45, linewidths=0)
        if row.interval is not None:
            ax.plot(row.interval, (y - 0.3, y - 0.3), color=palette[row.method], linewidth=2.4)
        ax.plot(row.mean_return, y - 0.3, marker="D", color=palette[row.method], markersize=5)
    for row in rows:
        if row.method == DATA:
            ax.axvline(row.mean_return, color=palette[DATA], linestyle=(0, (3, 3)), linewidth=1.2)
    _method_axis(ax, [row.method for row in shown])
    ax.set_xlabel("return of an episode (sum of rewards)")
    counts = ", ".join(f"{label(row.method)}: mean {row.mean_return:.4g} of {row.episodes} episodes" for row in shown)
    return drawing(
        figure,
        "Returns by method",
        f"Return of every evaluation episode. {counts}.",
        "One dot for each episode. Diamond and bar: mean and 95 % interval. Dashed: mean of the behaviour data.",
    )


def _spread(values: NDArray[np.float64], height: float = 0.28) -> NDArray[np.float64]:
    """Returns vertical offsets that keep equal values apart: the golden ratio's sequence, even and reproducible."""
    golden = (math.sqrt(5) - 1) / 2
    return np.asarray((np.arange(len(values)) * golden) % 1.0 * height)


@styled
def decision_times(episodes: Mapping[str, Sequence[EpisodeResult]], methods: Sequence[str]) -> Drawing:
    """Median and 99th percentile of the decision time, over the episodes of each row, on a logarithmic axis."""
    palette = colours(methods)
    figure, (ax,) = canvas(0.8 + 0.45 * len(methods))
    words = []
    for y, method in enumerate(methods):
        ended = [result for result in episodes[method] if not result.error]
        median = float(np.median([result.decision_ms_median for result in ended]))
        slow = max(result.decision_ms_p99 for result in ended)
        ax.plot((median, slow), (y, y), color=palette[method], linewidth=2, alpha=0.5)
        ax.plot(median, y, "o", color=palette[method], markersize=6)
        ax.plot(slow, y, "|", color=palette[method], markersize=9, markeredgewidth=2)
        ax.annotate(f"{median:.3g}", (median, y), (0, 6), textcoords="offset points", ha="center", fontsize=8)
        words.append(f"{label(method)} {median:.3g} ms")
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.grid(axis="x", which="minor", visible=False)
    _method_axis(ax, methods)
    ax.set_xlabel("milliseconds per decision (logarithmic)")
    return drawing(
        figure,
        "Decision time",
        f"Median decision time: {', '.join(words)}.",
        "Dot: median over the episodes. Bar: up to the slowest episode's 99th percentile. One decision serves all "
        "episodes of an actor's batch.",
    )


@styled
def predicted_returns(episodes: Mapping[str, Sequence[EpisodeResult]], methods: Sequence[str]) -> Drawing:
    """What each method predicted at the first step against what it got, both discounted; the diagonal is perfect."""
    palette = colours(methods)
    figure, (ax,) = canvas(3.0)
    ends: list[float] = []
    for method in methods:
        pairs = [(e.predicted_return, e.discounted_return) for e in episodes[method] if not e.error]
        predicted, achieved = np.array([pair for pair in pairs if np.isfinite(pair).all()]).T
        ax.scatter(predicted, achieved, s=14, color=palette[method], alpha=0.6, linewidths=0, label=label(method))
        ends += [predicted.min(), predicted.max(), achieved.min(), achieved.max()]
    diagonal = (min(ends), max(ends))
    ax.plot(diagonal, diagonal, color=palette[DATA], linestyle=(0, (3, 3)), linewidth=1.2)
    ax.set_xlabel("predicted discounted return")
    ax.set_ylabel("achieved discounted return")
    ax.legend(loc="best")
    return drawing(
        figure,
        "Predicted and achieved return",
        f"Predicted against achieved discounted return of {', '.join(label(method) for method in methods)}.",
        "One dot for each episode, predicted at its first step. On the dashed line prediction and outcome agree.",
    )


def _method_axis(ax: Any, methods: Sequence[str]) -> None:
    ax.set_yticks(range(len(methods)), [label(method) for method in methods], color=INK)
    ax.set_ylim(len(methods) - 0.5, -0.6)
    ax.grid(axis="y", visible=False)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
