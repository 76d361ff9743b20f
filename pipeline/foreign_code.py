"""Calls code that is somebody else's, an environment or a wrapper, and puts what it raises into words."""

import importlib
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import gymnasium

from pipeline.errors import PipelineError

T = TypeVar("T")

_MACHINERY = {
    Path(gymnasium.__file__).parent,
    Path(importlib.__file__).parent,
    Path(__file__),
    Path(__file__).with_name("environments.py"),
}
"""Whose lines say no more than the error itself does."""


def call_foreign(call: Callable[[], T], error_of: Callable[[str], PipelineError]) -> T:
    """Returns what `call` gives.

    Args:
        call: Code that may raise anything, or leave by `sys.exit`.
        error_of: Makes the error that is raised instead, of a text on one line: what was raised, and where.

    Raises:
        PipelineError: Of `error_of`, from what was raised.
    """
    try:
        return call()
    except (Exception, SystemExit) as error:
        # A Ray process that gets SIGTERM raises SystemExit wherever it is, with this mark.
        if hasattr(error, "ray_terminate_msg"):
            raise
        raise error_of(_told(error)) from error


def _told(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".removesuffix(": ").split())
    places = [
        f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<")
        and _MACHINERY.isdisjoint({Path(frame.filename), *Path(frame.filename).parents})
    ]
    return f"{text}, at {places[-1]}" if places else text
