"""What pydantic finds wrong with settings, in the house's words: "`setting` is `value`; expected `rule`."."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from pipeline.configuration import CREDENTIALS
from pipeline.errors import ConfigError

_EXPECTED = {
    CREDENTIALS: "a URI without credentials; the store's own places have them: environment variables such as "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws/credentials, or the machine's role",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "values by name in braces",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list in square brackets",
    "model_type": "settings by name in braces",
    "string_type": "a text",
    "too_long": "a length of at most {max_length}",
    "too_short": "a length of at least {min_length}",
    "tuple_type": "a list in square brackets",
    "unknown_home": "~ to be followed by / or by a user that there is",
    "unset_variable": "the environment variable {name} to be set",
}
"""By pydantic's type of error, where its own message speaks of Python's types."""


def findings(error: ValidationError, values: Mapping[str, Any]) -> str:
    """Returns one line for each setting that is wrong.

    Args:
        error: What pydantic raised.
        values: What it was given.
    """
    by_path: dict[str, list[ErrorDetails]] = {}
    for detail in error.errors():
        by_path.setdefault(_path(detail, values), []).append(detail)
    # A list with a wrong entry is also called too short, and settings for one kind of value none of another kind.
    deepest = [path for path in by_path if not any(other.startswith(f"{path}.") for other in by_path)]
    return "\n".join(_finding(path, by_path[path]) for path in deepest)


def unknown(path: str, known: Sequence[str] = ()) -> str:
    """Returns what is said of a setting that does not exist, and which of the `known` ones may be meant."""
    near = " or ".join(difflib.get_close_matches(path, known))
    return f"{path} is not a setting; expected one of those that --help lists{near and f', perhaps {near}'}."


def rule_of(error: PydanticCustomError) -> str:
    """Returns the rule that a value breaks, as it goes on after "expected"."""
    return _EXPECTED[error.type].format(**(error.context or {}))


def expected(detail: ErrorDetails) -> str:
    """Returns the rule that a value breaks, as it goes on after "expected"."""
    own = _own_error(detail)
    if own:
        return f"otherwise: {own.removesuffix('.')}"
    if detail["type"] in _EXPECTED:
        return _EXPECTED[detail["type"]].format(**detail.get("ctx", {}))
    subject, should, rule = detail["msg"].partition(" should ")
    return f"it to {rule}" if should and subject in ("Input", "String") else f"otherwise: {detail['msg']}"


def _finding(path: str, details: list[ErrorDetails]) -> str:
    for detail in details:
        if own := _own_error(detail):
            return own
        if detail["type"] == "extra_forbidden":
            return unknown(path)
        if detail["type"] == "missing":
            return f"{path} is missing; expected a value for it."
    value = "null" if details[0]["input"] is None else repr(details[0]["input"])
    if details[0]["type"] == CREDENTIALS:
        value = "a URI with credentials"
    # Where a setting may be of several kinds, there is a finding for each.
    rules = dict.fromkeys(expected(detail) for detail in details)
    return f"{path} is {value}; expected {' or '.join(rules)}."


def _own_error(detail: ErrorDetails) -> str:
    """Returns what a rule of ours says, "" for a rule of pydantic's."""
    error = detail.get("ctx", {}).get("error")
    return str(error) if isinstance(error, ConfigError) else ""


def _path(detail: ErrorDetails, values: Any) -> str:
    """Returns the setting's dotted name, without pydantic's words for the kinds that it may be of."""
    parts: list[str] = []
    for place, part in enumerate(detail["loc"]):
        is_key = isinstance(values, Mapping) and part in values
        is_index = isinstance(values, list) and isinstance(part, int)
        is_absent = detail["type"] == "missing" and place == len(detail["loc"]) - 1
        if is_key or is_index or is_absent:
            parts.append(str(part))
        if is_key or is_index:
            values = values[part]
    return ".".join(parts)
