"""Reads back what a run wrote. Others may have made it, or damaged it: it is data, within limits, or an error.

A file is regular and of bounded size; YAML has no aliases, which ten lines can blow up to gigabytes, and no tags of its
own; nothing is nested deeper than what is read next can bear.
"""

import hashlib
import io
import json
import math
import re
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

MOST_BYTES = 2**28
"""A manifest of 1000 columns with 65 535 bins each takes this much."""
DEEPEST = 30
_SEAL = "sha256_of_the_rest"


NULLS = {"", "~", "null", "Null", "NULL"}
_TRUTHS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NUMBERS = (
    (re.compile(r"[-+]?[0-9]+"), int),
    (re.compile(r"0o[0-7]+"), lambda text: int(text, 8)),
    (re.compile(r"0x[0-9a-fA-F]+"), lambda text: int(text, 16)),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"), lambda text: float(text.replace(".", ""))),
)
"""YAML 1.2.2, section 10.3.2."""


class PlainLoader(yaml.SafeLoader):
    """YAML without aliases, nested `DEEPEST` levels at most."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Returns what stands next.

        Raises:
            yaml.MarkedYAMLError: It is an alias, or nested too deeply.
        """
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="has an alias (*), expected none", problem_mark=mark)
        if self._depth == DEEPEST:
            raise yaml.MarkedYAMLError(problem=f"is nested more than {DEEPEST} levels deep", problem_mark=mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class PlainDumper(yaml.SafeDumper):
    """Repeats what stands in several places, and quotes a text that YAML 1.1 or 1.2 would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 (the base class passes it)
        """Returns True: nothing is written as an alias."""
        return True

    def text(self, text: str) -> yaml.ScalarNode:
        """Returns a text, which PyYAML quotes by YAML 1.1 alone."""
        is_more = text in NULLS or not isinstance(plain_value(text), str)
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="'" if is_more else None)


PlainDumper.add_representer(str, PlainDumper.text)


def plain_value(scalar: str) -> Any:
    """Returns what a plain scalar is where nothing else is known of it."""
    if scalar in _TRUTHS:
        return _TRUTHS[scalar]
    return next((number(scalar) for pattern, number in _NUMBERS if pattern.fullmatch(scalar)), str(scalar))


def yaml_text(values: Any) -> str:
    """Returns nested plain values as YAML that `yaml_mapping` reads."""
    return yaml.dump(values, Dumper=PlainDumper, sort_keys=False)


def read_bytes(path: Path) -> bytes:
    """Returns what a file holds.

    Raises:
        ValueError: It is no regular file, or larger than `MOST_BYTES`.
        OSError: It is not there, or cannot be read.
    """
    found = path.stat()
    if not path.is_file():
        raise ValueError("it is no regular file")
    if found.st_size > MOST_BYTES:
        raise ValueError(f"it has {found.st_size} bytes, more than {MOST_BYTES}")
    return path.read_bytes()


def yaml_mapping(content: bytes) -> dict[str, Any]:
    """Returns the values by name that YAML holds.

    Raises:
        ValueError: It holds something else, or is no YAML of the kind that `yaml_text` writes.
    """
    try:
        values = yaml.load(content, PlainLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from error
    return _mapping(values)


def json_mapping(content: bytes) -> dict[str, Any]:
    """Returns the values by name that JSON holds.

    Raises:
        ValueError: It holds something else, or is no JSON.
    """
    try:
        values = json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return _mapping(values)


def npz_arrays(content: bytes, most: int = MOST_BYTES) -> dict[str, NDArray[Any]]:
    """Returns the arrays by name of an `.npz` of plain arrays.

    Args:
        content: Of the file; each array has a checksum in it, which is looked at.
        most: Bytes that all arrays together may take.

    Raises:
        ValueError: It is no such file, is damaged, or larger.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            taken = sum(entry.file_size for entry in archive.infolist())
            if taken > most:
                raise ValueError(f"it takes {taken} bytes, more than {most}")
            return {name.removesuffix(".npy"): _array(archive.read(name)) for name in archive.namelist()}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _array(content: bytes) -> NDArray[Any]:
    file = io.BytesIO(content)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("it holds an array of another format")
    shape, _, kind = np.lib.format.read_array_header_1_0(file)
    if kind.hasobject:
        raise ValueError("it holds pickled objects")
    # Before memory is taken for what a header says.
    if math.prod(shape) * kind.itemsize != len(content) - file.tell():
        raise ValueError("it holds an array that is not as large as it says")
    file.seek(0)
    return np.asarray(np.load(file, allow_pickle=False))


def sealed(values: dict[str, Any]) -> str:
    """Returns values by name as JSON with a checksum of themselves, which `unsealed` looks at."""
    return json.dumps({**values, _SEAL: digest(values)}, indent=2, allow_nan=False) + "\n"


def unsealed(content: bytes, older: Collection[str] = ()) -> dict[str, Any]:
    """Returns the values by name that `sealed` was given.

    Args:
        content: Of the file.
        older: All names that a file from before there were checksums may hold; without any, there is none.

    Raises:
        ValueError: The content is not what `sealed` wrote.
    """
    values = json_mapping(content)
    seal = values.pop(_SEAL, None)
    if seal is None and values.keys() <= set(older):
        return values
    if seal is None:
        raise ValueError("it has no checksum of itself: an earlier version wrote it, or it was damaged")
    if seal != digest(values):
        raise ValueError("its checksum is not that of its content: it was changed or damaged")
    return values


def digest(values: dict[str, Any]) -> str:
    """Returns a sha256 of plain values by name, in hex digits."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _mapping(values: Any) -> dict[str, Any]:
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ValueError("it holds no values by name")
    return values
