"""What a sweep may change of a row, and how a setting becomes a way of acting.

A setting maps dotted names to values, for example `{"planning.beam_width": 32, "planning.horizon": 5}`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from pipeline.configuration import Config
from pipeline.errors import ConfigError
from pipeline.findings import expected, findings

Setting = dict[str, Any]


@dataclass(frozen=True)
class Swept:
    """How a row acts, and the dotted names by which a sweep may change it.

    Attributes:
        section: Before the dot.
        config: What is changed.
        fixed: Fields of it that no sweep may try.
        stored_as: What fields are called in the section of the experiment, where it has other names.
        space: Values that are tried where `sweep.space` is null, by dotted name.
    """

    section: str
    config: Config
    fixed: tuple[str, ...] = ()
    stored_as: Mapping[str, str] = field(default_factory=dict)
    space: Mapping[str, list[Any]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The dotted names."""
        return [f"{self.section}.{name}" for name in type(self.config).model_fields if name not in self.fixed]

    def check(self, values: Mapping[str, list[Any]], ranges: Mapping[str, list[Any]]) -> None:
        """Checks that a space names settings of acting, and values that these may have.

        Args:
            values: Lists of it, by dotted name.
            ranges: Least and greatest value of its ranges.

        Raises:
            ConfigError: It does not.
        """
        for path, tried in [*values.items(), *ranges.items()]:
            if path not in self.names:
                known = (
                    f"one of {', '.join(self.names)}" if self.names else f"none: {self.section} acts in one way only"
                )
                raise ConfigError(f"sweep.space has the key {path!r}; expected {known}.")
            for value in tried:
                self._check_value(path, value, path in ranges)

    def _check_value(self, path: str, value: Any, of_a_range: bool) -> None:
        name = path.partition(".")[2]
        # Alone, with the defaults of the others: that values fit together is looked at when they are tried.
        try:
            type(self.config).model_validate({**_required(self.config), name: value})
        except ValidationError as error:
            detail = error.errors()[0]
            if of_a_range and detail["type"] == "int_from_float":
                raise ConfigError(
                    f"sweep.space has a range of fractions for {path}; expected whole numbers: add integer: true."
                ) from error
            raise ConfigError(f"sweep.space tries {value!r} for {path}; expected {expected(detail)}.") from error

    def applied(self, setting: Setting) -> Config:
        """Returns how the row acts with the setting's values.

        Raises:
            ConfigError: They contradict each other or the configuration's.
        """
        values = self.config.model_dump() | {path.partition(".")[2]: value for path, value in setting.items()}
        try:
            return type(self.config).model_validate(values)
        except ValidationError as error:
            raise ConfigError(findings(error, values)) from error

    def stored(self, setting: Setting) -> Setting:
        """Returns the setting as the section of an experiment has it."""
        values = {path.partition(".")[2]: value for path, value in setting.items()}
        return {self.stored_as.get(name, name): value for name, value in values.items()}


def _required(config: Config) -> dict[str, Any]:
    """Returns the fields without a default."""
    return {name: getattr(config, name) for name, field in type(config).model_fields.items() if field.is_required()}
