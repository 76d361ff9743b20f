"""Writes a comparison down: Markdown, LaTeX (booktabs), or a page of HTML."""

import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.configuration import write_text_atomically
from pipeline.errors import RunFolderError
from pipeline.reporting.comparison import Cell, Comparison, ComparisonRow, compare, read_run
from pipeline.reporting.page import Grid, Section, render
from pipeline.reporting.table import NOTHING
from pipeline.run_folder import RunFolder

LEGEND = (
    "Mean with its 95 % interval, over episodes and, where a row has several runs, over trainings. Bold: the row's "
    "highest mean, and those inside its interval. Of the behaviour data all episodes are counted."
)
NAMES = 3
"""Columns of a row before its numbers; what stands there is other people's."""
_LATEX = {character: rf"\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def _texts(comparison: Comparison) -> tuple[list[str], list[list[str]], set[tuple[int, int]]]:
    """Returns the header, the rows of text, and (row, column) of the bold cells."""
    header = ["Environment", "Data set", "Unit", "Runs", *comparison.columns]
    rows = [[*_names(row), *(_text(row.cells.get(column)) for column in comparison.columns)] for row in comparison.rows]
    bold = {
        (i, j)
        for i, row in enumerate(comparison.rows)
        for j, column in enumerate(comparison.columns, start=4)
        if column in row.cells and row.cells[column].best
    }
    means = comparison.means
    if means:
        texts = [f"{means[column]:.1f}" if column in means else NOTHING for column in comparison.columns]
        rows.append(["mean", "", "score", "", *texts])
    return header, rows, bold


def _names(row: ComparisonRow) -> list[str]:
    return [row.environment, row.data_set, row.unit, str(row.trainings)]


def _text(cell: Cell | None) -> str:
    if cell is None:
        return NOTHING
    return f"{cell.mean:.1f}" + (f" [{cell.interval[0]:.1f}, {cell.interval[1]:.1f}]" if cell.interval else "")


def to_markdown(comparison: Comparison) -> str:
    """Returns the table as GitHub's Markdown, its legend below."""
    header, rows, bold = _texts(comparison)
    plain = [[*map(_plain_markdown, row[:NAMES]), *row[NAMES:]] for row in rows]
    cells = [[f"**{text}**" if (i, j) in bold else text for j, text in enumerate(row)] for i, row in enumerate(plain)]
    cells = [[*map(_plain_markdown, header)], *cells]
    widths = [max(len(row[j]) for row in cells) for j in range(len(header))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    rule = "|" + "|".join("-" * (width + 1) + (":" if j >= NAMES else "-") for j, width in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:], "", LEGEND, ""])


def to_latex(comparison: Comparison) -> str:
    r"""Returns the table as a LaTeX `tabular`; the document needs `\usepackage{booktabs}`."""
    header, rows, bold = _texts(comparison)
    cells = [
        [rf"\textbf{{{_escaped(text)}}}" if (i, j) in bold else _escaped(text) for j, text in enumerate(row)]
        for i, row in enumerate(rows)
    ]
    lines = [" & ".join(row) + r" \\" for row in cells]
    if comparison.means:
        lines.insert(-1, r"\midrule")
    columns = "l" * NAMES + "r" * (len(header) - NAMES)
    top = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", " & ".join(map(_escaped, header)) + r" \\", r"\midrule"]
    return "\n".join([f"% {LEGEND}", *top, *lines, r"\bottomrule", r"\end{tabular}", ""])


def _plain_markdown(text: str) -> str:
    """Returns text that Markdown shows as it is: names of data sets and environments are other people's."""
    # Inside a word an underscore is one; a colon is escaped where it would make a link of an address.
    special = r"([\\`*\[\]<>|!&~]|(?<![^\W_])_|_(?![^\W_])|:(?=//))"
    return re.sub(special, r"\\\1", _one_line(text))


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in _one_line(text).replace(NOTHING, "--"))


def _one_line(text: str) -> str:
    """Returns text without what would end a line of a table."""
    return " ".join(text.split())


def to_html(comparison: Comparison) -> str:
    """Returns the table as a page that needs no other file."""
    header, rows, bold = _texts(comparison)
    # Broken between mean and interval where the page is narrow, not inside the interval.
    cells = [[text.replace(", ", ",\u00a0") for text in row] for row in rows]
    grid = Grid(header, cells, LEGEND, strong=frozenset(bold), names=NAMES, wraps=True)
    runs = sum(row.trainings for row in comparison.rows)
    return render("Comparison", f"{runs} runs", [Section("Result", grids=[grid])])


def write_comparison(folders: Sequence[Path], stem: Path) -> str:
    """Writes the table of several runs as `stem`.md, .tex and .html.

    Args:
        folders: The runs' folders.
        stem: Path of the three files without their endings.

    Returns:
        The Markdown.

    Raises:
        RunFolderError: A folder is given twice, or two are the same training.
        PipelineError: A folder is not an evaluated run, or a file of it is broken.
    """
    paths = [folder.resolve() for folder in folders]
    for path in paths:
        if paths.count(path) > 1:
            raise RunFolderError(f"--compare names {path} {paths.count(path)} times; expected every run once.")
    comparison = compare([read_run(RunFolder(path)) for path in paths])
    writers = {".md": to_markdown, ".tex": to_latex, ".html": to_html}
    for ending, writer in writers.items():
        write_text_atomically(stem.with_name(stem.name + ending), writer(comparison))
    return to_markdown(comparison)
