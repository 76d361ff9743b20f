"""Matplotlib figures as inline SVG that follows the page: its fonts, its ink, light or dark, screen or paper."""

import functools
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, FAINT, GRID, PAPER = "#1f2328", "#66707c", "#dfe3e8", "#fdfdfe"
_VARIABLES = {INK: "var(--ink)", FAINT: "var(--faint)", GRID: "var(--grid)", PAPER: "var(--paper)"}

STYLE: dict[Any, Any] = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "font.size": 9,
    # Data sets and their columns may have a dollar in their names.
    "text.parse_math": False,
    "axes.titlesize": 9,
    "axes.titleweight": "normal",
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.labelcolor": FAINT,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": FAINT,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's own font
    "axes.formatter.useoffset": False,
}

Arguments = ParamSpec("Arguments")

WIDTH = 4.6
"""Inches of one figure: 440 CSS pixels, so that its letters stay readable on a phone and two stand side by side."""


@dataclass(frozen=True)
class Drawing:
    """One figure of the report.

    Attributes:
        svg: The inline `<svg>` element.
        title: Heading above it.
        caption: What is to be seen, in one or two sentences.
    """

    svg: Markup
    title: str
    caption: str = ""


def styled(draw: Callable[Arguments, Drawing]) -> Callable[Arguments, Drawing]:
    """Marks a function that draws: matplotlib reads its style whenever an artist is made, so all of it runs inside."""

    @functools.wraps(draw)
    def wrapper(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Drawing:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return wrapper


def canvas(height: float, rows: int = 1, columns: int = 1, share_x: bool = False) -> tuple[Figure, list[Axes]]:
    """Returns an empty figure of `height` inches and its axes, row by row; for `styled` functions."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=share_x)
    return figure, list(axes.flat)


def drawing(figure: Figure, title: str, description: str, caption: str = "") -> Drawing:
    """Returns the figure as inline SVG.

    Args:
        figure: Of a `styled` function.
        title: Heading; also names the figure's internal references, so it must be unique on the page.
        description: The alternative text: what a reader who cannot see the figure should know.
        caption: Shown below.
    """
    buffer = io.StringIO()
    # The salt makes references unique on the page, where inline figures share one name space, and reproducible.
    with mpl.rc_context({"svg.hashsalt": title}):
        figure.savefig(buffer, format="svg")
    return Drawing(_inline(buffer.getvalue(), description), title, caption)


def _inline(svg: str, description: str) -> Markup:
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # the names of artists, repeated in every figure
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)  # the page's own font
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, variable)
    view_box = re.search(r'viewBox="([^"]*)"', body)
    assert view_box is not None, "matplotlib writes a viewBox"
    opening = (
        f'<svg viewBox="{view_box.group(1)}" role="img" aria-label="{escape(description)}" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return Markup(opening + body[body.index(">") + 1 :])
