import pytest
import torch

from pipeline.planning.ranking import RANKINGS, Candidates, scores


def candidates(rewards: list[float], value: float, discount: float) -> Candidates:
    tokens = torch.zeros(1, 1, 1, len(rewards), 7, dtype=torch.long)
    values = torch.tensor([99.0] * (len(rewards) - 1) + [value])
    return Candidates(
        tokens, torch.tensor(rewards).view(1, 1, 1, -1), values.view(1, 1, 1, -1), torch.tensor([[[-3.0]]]), discount
    )


def test_the_predicted_return_counts_every_reward_and_only_the_last_value():
    assert float(scores(RANKINGS["predicted_return"], candidates([1.0, 2.0, 4.0], 8.0, 0.5))) == 1 + 1 + 1 + 1


def test_the_log_likelihood_is_the_score_itself():
    assert float(scores(RANKINGS["log_likelihood"], candidates([1.0], 2.0, 0.5))) == -3.0


@pytest.mark.parametrize("name", RANKINGS)
def test_scores_are_float32(name):
    assert scores(RANKINGS[name], candidates([1.0], 2.0, 0.5)).dtype == torch.float32
