import numpy as np
import pytest
import torch

from pipeline.methods.trajectory_transformer.policy import PlannerPolicy
from pipeline.planning.config import PlanningConfig
from pipeline.planning.ranking import RANKINGS, Candidates, Ranking, scores
from tests.planning.scenes import LAYOUT, random_discretizer, random_model


def candidates(rewards: list[float], value: float, discount: float) -> Candidates:
    values = torch.tensor([99.0] * (len(rewards) - 1) + [value])
    return Candidates(
        tokens=torch.zeros(1, 1, 1, len(rewards), 7, dtype=torch.long),
        rewards=torch.tensor(rewards).view(1, 1, 1, -1),
        values=values.view(1, 1, 1, -1),
        log_likelihood=torch.tensor([[[-3.0]]]),
        discount=discount,
        layout=LAYOUT,
        centers=torch.tensor(random_discretizer().centers),
    )


def test_the_predicted_return_counts_every_reward_and_only_the_last_value():
    assert float(scores(RANKINGS["predicted_return"], candidates([1.0, 2.0, 4.0], 8.0, 0.5))) == 1 + 1 + 1 + 1


def test_the_log_likelihood_is_the_score_itself():
    assert float(scores(RANKINGS["log_likelihood"], candidates([1.0], 2.0, 0.5))) == -3.0


@pytest.mark.parametrize("name", RANKINGS)
def test_scores_are_float32(name):
    assert scores(RANKINGS[name], candidates([1.0], 2.0, 0.5)).dtype == torch.float32


def test_a_ranking_of_ones_own_decides_from_decoded_tokens():
    """As a Q-function would: it holds what it needs and judges the first action's number, not its token."""
    config, discretizer = (
        PlanningConfig(beam_width=32, horizon=1, cdf_act=None, context_transitions=0),
        random_discretizer(),
    )
    column = LAYOUT.action.start

    def ranked(sign: float) -> Ranking:
        return Ranking(lambda candidates: sign * candidates.centers[column][candidates.tokens[..., 0, column]])

    def first_action(sign: float) -> float:
        policy = PlannerPolicy(random_model(2), discretizer, config, num_slots=1, ranking=ranked(sign))
        policy.reset(0, seed=1)
        return policy.act({0: np.zeros(3)})[0].action[0]

    # 64 candidates meet every one of the 7 bins.
    assert first_action(-1.0) == discretizer.centers[column, : LAYOUT.bins[column]].min()
    assert first_action(1.0) == discretizer.centers[column, : LAYOUT.bins[column]].max()
