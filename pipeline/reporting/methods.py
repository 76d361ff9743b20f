"""How the rows of tables are called and coloured, the same in every table and figure."""

from collections.abc import Iterable

from pipeline.acting import RANDOM
from pipeline.methods.method import TARGET
from pipeline.methods.registry import METHODS

DATA = "data"
"""The key of the behaviour data, which is no method but stands beside them in tables and figures."""

_COLOURS = {
    DATA: "#848d99",
    RANDOM: "#d08a3e",
    "behaviour_cloning": "#2f9c8c",
    "one_step": "#7fb2e5",
    "imitation": "#4b9ec9",
    "trajectory_transformer": "#3f6fd8",
    "decision_transformer": "#a05cb8",
}
_FURTHER_COLOURS = ("#c2536b", "#7a8f2f", "#b0855a", "#57a3a3", "#8d6fd1")

_TARGETS = ("mean", "half", "best")
"""Returns of the data that a row is asked for by name, in ascending order."""


def _labels() -> dict[str, str]:
    """Returns the words of everything that tables have, in the order of their rows."""
    kinds = {kind: words for method in METHODS.values() for kind, words in method.settings.row_kinds.items()}
    return {DATA: "Behaviour data", RANDOM: "Random policy", **kinds}


def label(row: str) -> str:
    """Returns the words for a row; one that no method has is called by its own name."""
    kind, asked, target = row.partition(TARGET)
    words = _labels().get(kind) or kind.replace("_", " ").capitalize()
    return f"{words} for {target}" if asked else words


def ordered(rows: Iterable[str]) -> list[str]:
    """Returns the rows from the weakest baseline to the planner; by what they are asked for; others at the end."""
    known = list(_labels())

    def place(row: str) -> tuple[int, float, str]:
        kind, _, target = row.partition(TARGET)
        # Those by name after those by number, the best one last.
        asked = 1e300 * (1 + _TARGETS.index(target)) if target in _TARGETS else float(target or 0)
        return (known.index(kind) if kind in known else len(known), asked, row)

    return sorted(rows, key=place)


def colours(rows: Iterable[str]) -> dict[str, str]:
    """Returns one colour (#rrggbb) for each row: shades of one for rows of one kind that are asked for other returns.

    Rows without a colour of their own share the further colours in order.
    """
    result = dict(_COLOURS)
    names = ordered(rows)
    for kind, colour in _COLOURS.items():
        asked = [row for row in names if row.startswith(kind + TARGET)]
        result.update({row: _shade(colour, 1 - place / len(asked)) for place, row in enumerate(reversed(asked))})
    further = [row for row in names if row not in result]
    result.update({row: _FURTHER_COLOURS[i % len(_FURTHER_COLOURS)] for i, row in enumerate(further)})
    return result


def _shade(colour: str, strength: float) -> str:
    """Returns a colour mixed with white; a strength of 1 is itself, of 0 a third of it."""
    parts = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    share = (1 + 2 * strength) / 3
    return "#" + "".join(f"{round(255 - (255 - part) * share):02x}" for part in parts)
