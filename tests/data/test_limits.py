import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from pipeline.data.config import DataConfig
from pipeline.data.limits import require_learnable
from pipeline.data.spaces import Spaces
from pipeline.errors import ConfigError, DataError

ACTION = Box(-1, 1, (1,))
IMAGE = Box(0, 255, (64, 64, 3), np.uint8)


def test_images_are_refused_with_what_to_do() -> None:
    with pytest.raises(
        DataError,
        match=r"12288 columns; expected at most data\.max_observation_columns, 500, as images are not supported\. "
        r"Choose some with data\.observation_keys or data\.observation_columns, or raise the limit",
    ):
        require_learnable(Spaces.of(IMAGE, ACTION), DataConfig())


def test_what_is_chosen_of_an_image_or_allowed_is_not_refused() -> None:
    require_learnable(Spaces.of(IMAGE, ACTION), DataConfig(max_observation_columns=12288))
    require_learnable(Spaces.of(IMAGE, ACTION, columns=("0:500",)), DataConfig())
    require_learnable(Spaces.of(Dict({"a": IMAGE, "b": ACTION}), ACTION, keys=("b",)), DataConfig())
    with pytest.raises(DataError, match="501 columns; expected at most"):
        require_learnable(Spaces.of(IMAGE, ACTION, columns=("0:501",)), DataConfig())


@pytest.mark.parametrize(
    ("spaces", "name"),
    [
        (Spaces.of(Discrete(500), ACTION), r"observation\[0\]"),
        (Spaces.of(ACTION, Discrete(500)), r"action\[0\]"),
        (Spaces.of(ACTION, Box(1, 500, (1,), np.int64)), r"action\[0\]"),
    ],
)
def test_more_states_than_bins_are_refused_before_anything_is_read(spaces: Spaces, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"data.num_bins is 100; expected at least 500 .* {name} can have"):
        require_learnable(spaces, DataConfig())
    require_learnable(spaces, DataConfig(num_bins=500))
    require_learnable(spaces, DataConfig(store="values"))
