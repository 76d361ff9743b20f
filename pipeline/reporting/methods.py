"""How methods are called and coloured, the same in every table and figure."""

from collections.abc import Iterable

DATA = "data"
"""The key of the behaviour data, which is no method but stands beside them in tables and figures."""

_KNOWN = {
    DATA: ("Behaviour data", "#848d99"),
    "random": ("Random policy", "#d08a3e"),
    "behaviour_cloning": ("Behaviour cloning", "#2f9c8c"),
    "trajectory_transformer": ("Trajectory Transformer", "#3f6fd8"),
}
_FURTHER_COLOURS = ("#a05cb8", "#c2536b", "#7a8f2f", "#4b9ec9")


def label(method: str) -> str:
    """Returns the words for a method; one that has no entry here is called by its own name."""
    return _KNOWN[method][0] if method in _KNOWN else method.replace("_", " ").capitalize()


def ordered(methods: Iterable[str]) -> list[str]:
    """Returns the methods from the weakest baseline to the planner, further ones in alphabetical order at the end."""
    names = list(methods)
    known = [name for name in _KNOWN if name in names]
    return known + sorted(name for name in names if name not in _KNOWN)


def colours(methods: Iterable[str]) -> dict[str, str]:
    """Returns one colour (#rrggbb) for each method; further methods share the further colours in order."""
    further = [name for name in ordered(methods) if name not in _KNOWN]
    result = {name: colour for name, (_, colour) in _KNOWN.items()}
    result.update({name: _FURTHER_COLOURS[i % len(_FURTHER_COLOURS)] for i, name in enumerate(further)})
    return result
