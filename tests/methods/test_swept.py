import pytest

from pipeline.errors import ConfigError
from pipeline.methods.swept import Swept
from pipeline.planning.config import PlanningConfig

PLANNING = Swept("planning", PlanningConfig(beam_width=7, horizon=3), fixed=("discount",))


def test_a_setting_replaces_only_its_own_values() -> None:
    assert PLANNING.applied({"planning.horizon": 9}) == PlanningConfig(beam_width=7, horizon=9)


def test_a_setting_that_contradicts_the_configuration_is_told_in_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"^planning\.plan_every is 4; expected at most planning\.horizon, 3"):
        PLANNING.applied({"planning.plan_every": 4})


def test_what_cannot_be_changed_is_not_named() -> None:
    assert PLANNING.names[:2] == ["planning.beam_width", "planning.horizon"]
    assert "planning.discount" not in PLANNING.names


def test_a_row_that_acts_in_one_way_only_says_so() -> None:
    fixed = Swept("imitation", PlanningConfig(), fixed=tuple(PlanningConfig.model_fields))
    with pytest.raises(ConfigError, match=r"the key 'planning.horizon'; expected none: imitation acts in one way only"):
        fixed.check({"planning.horizon": [1]}, {})


def test_a_setting_is_stored_by_the_name_that_the_experiment_has_for_it() -> None:
    renamed = Swept("planning", PlanningConfig(), stored_as={"beam_width": "beams"})
    assert renamed.stored({"planning.beam_width": 2, "planning.horizon": 4}) == {"beams": 2, "horizon": 4}
    assert renamed.applied({"planning.beam_width": 2}).beam_width == 2
