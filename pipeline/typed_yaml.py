"""YAML whose values are typed by the setting that they are for, as a file or as what was typed on a command line.

YAML 1.1 takes `1:30` for the number 90, `on` for true and `1e-3` for a text, whatever the setting is. Here a setting
that is text gets the characters that stand there; everything else is read by the core rules of YAML 1.2.
"""

from collections.abc import Hashable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from pipeline.stored import NULLS, PlainDumper, PlainLoader, plain_value


class Scalar(str):
    """A scalar as it stands in YAML, before anybody says what it is for; `quoted` is text whatever it looks like."""

    quoted: bool


class TwiceError(yaml.MarkedYAMLError):
    """A setting stands twice in one place."""


class _Loader(PlainLoader):
    """Leaves scalars as they are written, and refuses a key that stands twice, of which YAML takes the last."""

    def scalar(self, node: yaml.ScalarNode) -> Scalar | None:
        """Returns the characters, None for null."""
        found = Scalar(self.construct_scalar(node))
        found.quoted = node.style is not None
        return found if found.quoted or found not in NULLS else None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Returns the mapping.

        Raises:
            TwiceError: A key stands in it twice.
        """
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                raise yaml.MarkedYAMLError(problem="has a key that is no text", problem_mark=key_node.start_mark)
            if key in lines:
                raise TwiceError(problem=f"has {key} twice, in lines {lines[key]} and {line}")
            lines[key] = line
        return {str(key): value for key, value in super().construct_mapping(node, deep).items()}


for _kind in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.scalar)


def load(text: str | bytes) -> Any:
    """Returns lists and dicts of `Scalar` and None.

    Raises:
        yaml.YAMLError: It is no YAML, has a tag of its own, or (`TwiceError`) a key twice in one mapping.
    """
    return yaml.load(text, _Loader)


def read(words: Any, annotation: Any) -> Any:
    """Returns what was typed on a command line as `load` would; anything but a plain str stays as it is.

    Args:
        words: The characters.
        annotation: The setting's type: text is not looked at as YAML, unless all of it stands in quotes, or is null.
    """
    if not isinstance(words, str) or isinstance(words, Scalar):
        return words
    try:
        loaded = load(words)
    except yaml.YAMLError:
        # Text may be anything; for other settings pydantic says what was expected.
        return _text(words)
    is_null, is_quoted = words in NULLS - {""}, isinstance(loaded, Scalar) and words.strip()[:1] in ("'", '"')
    return loaded if is_null or is_quoted or not _is_text(alternatives(annotation)) else _text(words)


def _text(words: str) -> Scalar:
    found = Scalar(words)
    found.quoted = True
    return found


def typed(value: Any, annotation: Any) -> Any:
    """Returns plain values for a setting.

    Args:
        value: Of `load` or `read`. What has no `Scalar` in it stays as it is.
        annotation: The setting's type, which tells where text belongs. That a value is of that type is not checked.
    """
    kinds = alternatives(annotation)
    if isinstance(value, Scalar):
        return str(value) if value.quoted or _is_text(kinds) else plain_value(value)
    if isinstance(value, list):
        items = [get_args(kind)[0] for kind in kinds if get_origin(kind) in (tuple, list)]
        return [typed(item, items[0] if items else Any) for item in value]
    if isinstance(value, Mapping):
        return {key: typed(item, _annotation_of(key, kinds)) for key, item in value.items()}
    return value


class _Dumper(PlainDumper):
    """Writes scalars as they were read."""

    def scalar(self, scalar: Scalar) -> yaml.ScalarNode:
        """Returns a text with quotes where it needs some, and what is no text without."""
        if scalar.quoted:
            return self.text(str(scalar))
        tag = self.resolve(yaml.ScalarNode, str(scalar), (True, True))  # type: ignore[no-untyped-call]
        return self.represent_scalar(tag, str(scalar))


_Dumper.add_representer(Scalar, _Dumper.scalar)


def dump(values: Any) -> str:
    """Returns the YAML of nested values in which there may be `Scalar`."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _is_text(kinds: list[Any]) -> bool:
    """Returns whether the setting can be nothing but text, or null."""
    texts = [
        kind is str or (get_origin(kind) is Literal and all(isinstance(word, str) for word in get_args(kind)))
        for kind in kinds
        if kind is not NoneType
    ]
    return bool(texts) and all(texts)


def alternatives(annotation: Any) -> list[Any]:
    """Returns the types that a setting may have, without what is only said about them."""
    if get_origin(annotation) is Annotated:
        return alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in alternatives(part)]
    return [annotation]


def _annotation_of(key: str, kinds: list[Any]) -> Any:
    """Returns the type of what a mapping has for `key`."""
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, BaseModel) and key in kind.model_fields:
            return kind.model_fields[key].annotation
        if get_origin(kind) is dict:
            return get_args(kind)[1]
    return Any
