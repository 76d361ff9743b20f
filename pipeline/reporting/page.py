"""The report's page: sections of tables, figures and texts, rendered into one self-contained HTML file.

It knows nothing of runs; `pipeline.reporting.sections` says what a run's sections hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from pipeline.reporting.figures import Drawing


@dataclass(frozen=True)
class Grid:
    """A table of texts.

    Attributes:
        header: Column heads, () for none. The first columns hold names and are set flush left, all others flush right.
        rows: As many cells a row as there are heads.
        caption: Shown below.
        strong: (row, column) of the cells that stand out.
        names: How many columns hold names.
        wraps: Cells may be broken at spaces.
        colours: One `#rrggbb` a row for the dot in front of its name, or none at all.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    strong: frozenset[tuple[int, int]] = frozenset()
    names: int = 1
    wraps: bool = False
    colours: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """One section of the report.

    Attributes:
        title: Its heading.
        missing: Where its input is not there: what to run, in one sentence; the command itself is then `code`.
        text: Sentences below the heading.
        grids: Tables.
        drawings: Figures.
        code: Text set in a fixed width, such as a command.
        folded: Long texts and tables behind a heading that opens them: (heading, content).
        media: Paths of video files, relative to the report: (caption, path).
    """

    title: str
    missing: str = ""
    text: str = ""
    grids: Sequence[Grid] = ()
    drawings: Sequence[Drawing] = ()
    code: str = ""
    folded: Sequence[tuple[str, str | Grid]] = ()
    media: Sequence[tuple[str, str]] = ()

    @property
    def anchor(self) -> str:
        """The section's id on the page."""
        return self.title.lower().replace(" ", "-")


def render(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Returns the page as HTML that needs no other file and no network."""
    folder = files("pipeline.reporting")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((folder / "report.html.jinja").read_text())
    css = (folder / "report.css").read_text()
    return template.render(title=title, subtitle=subtitle, sections=sections, css=css)
