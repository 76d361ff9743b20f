"""What the settings of every method have in common; light to import, as the command line reads them."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import ValidationError

from pipeline.configuration import Config
from pipeline.errors import ConfigError
from pipeline.findings import findings


class MethodSettings(Config):
    """Base of the section of one method: what is trained.

    Volatile fields say how it acts, which a training leaves open.

    Attributes:
        row_kinds: Words of the rows that its model can act as, by what `evaluation.rows` calls them.
        default_rows: Those that are evaluated where `evaluation.rows` is null.
        measures: What its training measures (`pipeline.training.objective`), `loss` first; some of it perhaps for some
            data only.
        reads: What of the shards it learns from.
        plans: Whether it acts by the section `planning`.
        only_training: Fields that decide nothing of the model itself, and may differ where one training starts from
            another (training.init_from).
    """

    row_kinds: ClassVar[dict[str, str]]
    default_rows: ClassVar[tuple[str, ...]]
    measures: ClassVar[tuple[str, ...]] = ("loss",)
    reads: ClassVar[Literal["tokens", "values"]] = "values"
    plans: ClassVar[bool] = False
    only_training: ClassVar[tuple[str, ...]] = ("dropout",)

    def of_the_model(self) -> dict[str, Any]:
        """Returns the fields that decide the model."""
        return {name: value for name, value in self.identity().items() if name not in self.only_training}

    def acted(self, acting: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the volatile fields that a row of a model of these settings acted with, by what its identity says."""
        return {}

    def acting_as(self, given: Self) -> Self:
        """Returns these settings, which a model was trained with, and of `given` how it acts.

        Raises:
            ConfigError: The model cannot act so.
        """
        trained = self.identity()
        values = {name: value for name, value in given.model_dump().items() if name not in trained}
        try:
            return type(self).model_validate({**self.model_dump(), **values})
        except ValidationError as error:
            raise ConfigError(findings(error, values)) from error
