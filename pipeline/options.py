"""YAML files and options in, validated settings out, errors in plain words."""

import argparse
import re
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jsonargparse
import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from pipeline.configuration import Config, expanded
from pipeline.errors import ConfigError
from pipeline.findings import findings, rule_of, unknown
from pipeline.typed_yaml import TwiceError, alternatives, dump, load, read, typed

Settings = TypeVar("Settings", bound=Config)

_MODE = "typed_yaml"
jsonargparse.set_loader(_MODE, load, (yaml.YAMLError,))
jsonargparse.set_dumper(_MODE, dump)


def parse(defaults: Settings, description: str | None, arguments: list[str]) -> Settings:
    """Returns `defaults` with what `arguments` say: `--config` files merged left to right, then overrides.

    Raises:
        ConfigError: An unknown key, a wrong type, a value out of range, or a rule between settings is broken.
    """
    parser = jsonargparse.ArgumentParser(
        description=description,
        formatter_class=_Help,
        exit_on_error=False,
        allow_abbrev=False,
        parser_mode=_MODE,
        usage="%(prog)s [--config FILE ...] [--SECTION.SETTING VALUE ...]",
    )
    parser.add_argument(
        "--config", action=jsonargparse.ActionConfigFile, help="YAML file of settings; later files win over earlier."
    )
    known = _add_settings(parser, defaults, "")
    _check_files(arguments)
    try:
        values = parser.parse_args(_files_first(arguments)).as_dict()
    except jsonargparse.ArgumentError as error:
        raise ConfigError(_plain_words(str(error), known)) from error
    values.pop("config")
    values = typed(values, type(defaults))
    try:
        return type(defaults).model_validate(values)
    except ValidationError as error:
        raise ConfigError(findings(error, values)) from error


def place(text: str) -> str:
    """Returns a path of an option that is no setting, as those of settings are read (`expanded`).

    Raises:
        argparse.ArgumentTypeError: In plain words; the text, which may have a password in it, is not repeated.
    """
    try:
        return expanded(text)
    except PydanticCustomError as error:
        raise argparse.ArgumentTypeError(f"expected {rule_of(error)}") from error


class _Help(jsonargparse.DefaultHelpFormatter):
    """Keeps the job's own lines as they are written, and adds nothing to what the settings say of themselves."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:  # noqa: ARG002 (the base class passes it)
        return "\n".join(indent + line for line in text.strip().splitlines())

    def _get_help_string(self, action: argparse.Action) -> str:
        return action.help or ""


def _add_settings(parser: jsonargparse.ArgumentParser, defaults: Config, prefix: str) -> list[str]:
    """Adds one option for each setting, section by section, and returns their names.

    The options take any value, read as their settings' types say: pydantic alone judges them, so that YAML and command
    line give the same errors.
    """
    group = parser.add_argument_group(prefix.rstrip(".") or "run", (type(defaults).__doc__ or "").split("\n")[0])
    names: list[str] = []
    for name, field in type(defaults).model_fields.items():
        default = getattr(defaults, name)
        if isinstance(default, Config):
            names += _add_settings(parser, default, f"{prefix}{name}.")
            continue
        names.append(f"{prefix}{name}")
        plain = defaults.model_dump(mode="json")[name]
        shown = "null" if plain is None else plain
        # A switch may stand without its value: `--sweep` is `--sweep true`.
        switch: dict[str, Any] = {"nargs": "?", "const": True} if field.annotation is bool else {}
        group.add_argument(
            f"--{prefix}{name}",
            type=partial(read, annotation=field.annotation),
            default=plain,
            metavar="VALUE",
            **switch,
            help=f"{field.description} ({_rule(field)}; default {shown})".replace("%", "%%"),
        )
    return names


def _rule(field: FieldInfo) -> str:
    """Returns the type and the range of a setting, for example `int >= 1`."""
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    kinds = [kind.__name__ if isinstance(kind, type) else str(kind) for kind in alternatives(field.annotation)]
    kind = re.sub(r"typing\.|pipeline\.[\w.]+\.", "", " | ".join(kinds)).replace("NoneType", "null")
    bounds = [
        f"{sign} {getattr(mark, name)}"
        for mark in field.metadata
        for name, sign in signs.items()
        if hasattr(mark, name)
    ]
    return " ".join([kind, ", ".join(bounds)]).strip()


def _files_first(arguments: list[str]) -> list[str]:
    """Returns the arguments with every `--config` before all others: options win over files wherever they stand."""
    files: list[str] = []
    options: list[str] = []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        chosen = files if argument.partition("=")[0] == "--config" else options
        chosen.append(argument)
        if argument == "--config" and waiting and not waiting[0].startswith("--"):
            chosen.append(waiting.pop(0))
    return files + options


def _check_files(arguments: list[str]) -> None:
    """Checks that every `--config` file that exists is YAML and holds settings.

    Raises:
        ConfigError: One is not; jsonargparse would say so too, but not of which file.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    # That its value is missing, or names no file, is told by the job's own parser.
    parser.add_argument("--config", action="append", default=[], type=Path, nargs="?")
    paths = parser.parse_known_args(arguments)[0].config
    for path in (path for path in paths if path and path.is_file()):
        try:
            content = load(path.read_bytes())
        except TwiceError as error:
            raise ConfigError(f"{path} {error.problem}; expected each setting once.") from error
        except yaml.MarkedYAMLError as error:
            place = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
            raise ConfigError(f"{path}{place} is not YAML: {error.problem}; expected settings by section.") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"{path} is not YAML ({error}); expected settings by section.") from error
        for other in ("config", "print_config"):
            if isinstance(content, dict) and other in content:
                # jsonargparse would read that file too, and print what it holds in an error.
                raise ConfigError(
                    f"{path} has {other}; expected settings alone. Name several files by several --config."
                )
        dotted = [key for key in content if "." in key] if isinstance(content, dict) else []
        if dotted:
            section, _, setting = dotted[0].partition(".")
            raise ConfigError(
                f"{path} has {dotted[0]}; expected it in its section, `{section}: {{{setting}: ...}}`, where it stands "
                "once."
            )
        if not isinstance(content, dict) or all(value is None for value in content.values()):
            raise ConfigError(
                f"{path} holds no settings; expected some by section, such as `planning: {{horizon: 5}}`."
            )


def _plain_words(message: str, known: list[str]) -> str:
    """Returns what jsonargparse says of an option or a file that it does not know, in the house's form."""
    group = re.search(r"Group '([^']*)' does not accept option '([^']+)'", message)
    if group:
        return unknown(f"{group[1]}.{group[2]}", known)
    file = re.search(r"File does not exist: '([^']*)'", message)
    if file:
        return f"--config is {file[1]!r}; expected a YAML file that exists. configs/ has examples."
    option = re.search(r"Option '([^']+)' is not accepted|unrecognized arguments: --([^ =]+)", message)
    return unknown(option[1] or option[2], known) if option else message
