from typing import Any

import pytest
import torch

from pipeline.planning.config import PlanningConfig
from pipeline.planning.decoder import Decoder
from pipeline.planning.dense_stepper import DenseStepper
from pipeline.planning.noise import no_noise
from pipeline.planning.ranking import RANKINGS
from pipeline.planning.search import BeamSearch, SearchInputs
from pipeline.planning.stepper import SearchShape
from pipeline.planning.weights import Weights
from tests.one_device import META, OneDevice
from tests.planning.scenes import LAYOUT, random_model

E = 3


@pytest.mark.parametrize("window", [7, 4])
@pytest.mark.parametrize(
    "knobs",
    [{}, {"k_obs": 2}, {"k_act": 3}, {"ranking": "log_likelihood"}, {"value_estimate": "percentile"}, {"horizon": 1}],
    ids=str,
)
@torch.inference_mode()
def test_a_search_reads_nothing_back_and_stays_on_its_device(window: int, knobs: dict[str, Any]) -> None:
    config = PlanningConfig(**{"beam_width": 6, "horizon": 5, "context_transitions": 2} | knobs)
    weights = Weights(random_model(window, torch.float32), META, torch.bfloat16)
    shape = SearchShape(E, config.beam_width, config.expansion_factor, 2, config.horizon, window)
    decoder = Decoder(weights, LAYOUT, shape, DenseStepper(weights, LAYOUT, shape))
    centers_DN = torch.zeros(LAYOUT.transition_dim, LAYOUT.num_bins, device=META)
    search = BeamSearch(config, decoder, centers_DN, RANKINGS[config.ranking])
    noise = no_noise(config, LAYOUT)
    inputs = SearchInputs(
        torch.zeros(E, 2, LAYOUT.transition_dim, dtype=torch.int64, device=META),
        torch.zeros(E, LAYOUT.observation_dim, dtype=torch.int64, device=META),
        torch.zeros(E, dtype=torch.int64, device=META),
        torch.zeros(E, *noise.actions.shape, device=META),
        torch.zeros(E, *noise.observations.shape, device=META),
    )
    with OneDevice():
        result = search(inputs)
    assert result.tokens.shape == (E, config.horizon, LAYOUT.transition_dim)
    assert result.values.shape == result.rewards.shape == (E, config.horizon)
