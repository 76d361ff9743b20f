"""The oracle needs oracles too: hand-made cases, and exhaustive search where that is possible."""

import itertools

import numpy as np
import pytest
import torch

from pipeline.planning.config import PlanningConfig
from pipeline.planning.noise import Noise
from pipeline.references.planner import ReferencePlanner, Sequence, kept_places, sampled_bin
from pipeline.tokens.layout import TransitionLayout
from tests.planning.scenes import random_model

TINY = TransitionLayout.plain(observation_dim=1, action_dim=2, num_bins=3)
CENTERS = np.array([[0.0, 1.0, 2.0]] * 3 + [[-1.0, 0.0, 2.0]] * 2)
NO_CONTEXT = np.zeros((0, 5), dtype=np.int64)


def expected_return(model, actions: tuple[int, ...], observation: int) -> float:
    """Adds up what the uncached model expects after these actions, the reward token being its most likely one."""
    tokens, total = [observation, *actions], 0.0
    for discount, dimension in ((1.0, 3), (0.99, 4)):
        probabilities = torch.softmax(model(torch.tensor([tokens]))[0, -1], dim=-1)[:3].detach().numpy()
        total += discount * float(probabilities @ CENTERS[dimension])
        tokens.append(int(probabilities.argmax()))
    return total


def test_a_search_that_tries_every_action_finds_what_exhaustive_search_finds():
    model = random_model(2, layout=TINY)
    pairs = list(itertools.product(range(3), repeat=2))
    # At a very high temperature all bins are equally likely: the uniforms (bin + 1/2) / 3 choose each pair once.
    noise = Noise(((np.array(pairs) + 0.5) / 3).astype(np.float32).reshape(1, 1, 9, 2), np.zeros(0, dtype=np.float32))
    config = PlanningConfig(
        beam_width=1, horizon=1, expansion_factor=9, cdf_act=None, temperature=1e9, context_transitions=0
    )
    plan = ReferencePlanner(model, CENTERS, config).plan(NO_CONTEXT, np.array([1]), noise)
    best = max(pairs, key=lambda pair: expected_return(model, pair, 1))
    assert tuple(plan.tokens[0, 1:3]) == best
    assert plan.predicted_return == pytest.approx(expected_return(model, best, 1))


def test_a_search_that_follows_every_sequence_finds_what_exhaustive_search_finds():
    """Place k of 27 tries the actions that are the digits of k: 3 bins, 3 steps, with a window that slides."""
    layout = TransitionLayout.plain(observation_dim=1, action_dim=1, num_bins=3)
    centers = np.array([[0.0, 1.0, 2.0]] * 2 + [[-1.0, 0.0, 2.0], [-3.0, 0.5, 2.0]])
    model = random_model(2, layout=layout)
    sequences = list(itertools.product(range(3), repeat=3))
    noise = Noise(
        ((np.array(sequences).T + 0.5) / 3).astype(np.float32).reshape(3, 27, 1, 1), np.zeros(0, dtype=np.float32)
    )
    config = PlanningConfig(
        beam_width=27, horizon=3, expansion_factor=1, cdf_act=None, temperature=1e9, context_transitions=0, discount=0.7
    )
    plan = ReferencePlanner(model, centers, config).plan(np.zeros((0, 4), dtype=np.int64), np.array([1]), noise)

    def predicted(tokens: list[int]) -> np.ndarray:
        """The probabilities of the next token's bins, of the last transitions that fit."""
        seen = tokens[-(4 + len(tokens) % 4) :] if len(tokens) > 7 else tokens
        logits = model(torch.tensor([seen]))[0, -1].detach().numpy()
        return np.exp(logits[:3]) / np.exp(logits).sum()

    def outcome(actions: tuple[int, ...]) -> float:
        tokens, total = [1], 0.0
        for step, action in enumerate(actions):
            tokens.append(action)
            for dimension, discount in ((2, 0.7**step), (3, 0.7 ** (step + 1))):
                probabilities = predicted(tokens)
                expected = float(probabilities @ centers[dimension])
                total += discount * expected if dimension == 2 or step == 2 else 0.0
                tokens.append(int(probabilities.argmax()))
            tokens.append(int(predicted(tokens).argmax()))
        return total

    best = max(sequences, key=outcome)
    assert tuple(plan.tokens[:, 1]) == best
    assert plan.predicted_return == pytest.approx(outcome(best))
    assert sorted(map(outcome, sequences))[-2] < outcome(best) - 1e-6


def test_the_filters_keep_what_the_released_code_keeps():
    logits = np.log([0.1, 0.2, 0.3, 0.4, 99.0])
    uniforms = np.arange(0, 1, 0.05)
    assert {sampled_bin(logits, u, 1.0, None, 0.35) for u in uniforms} == {2, 3}
    assert {sampled_bin(logits, u, 1.0, 3, None) for u in uniforms} == {1, 2, 3}


def test_kept_sequences_stay_and_homeless_ones_take_free_places():
    named = [[Sequence([place, copy], [], [], 0.0) for copy in range(2)] for place in range(3)]
    kept = kept_places(named, np.array([[1.0, 0.0], [-1.0, -2.0], [3.0, 4.0]]))
    assert [sequence.tokens for sequence in kept] == [[0, 0], [2, 1], [2, 0]]


def test_a_window_that_slides_drops_whole_transitions_from_the_front():
    seen = []

    class Watching:
        layout, max_inputs, position_embedding = TINY, 2 * 5 - 1, torch.zeros(1)

        def __call__(self, tokens):
            seen.append(tokens[0].tolist())
            return torch.zeros(*tokens.shape, 4)

    config = PlanningConfig(beam_width=1, horizon=2, expansion_factor=1, context_transitions=1)
    noise = Noise(np.zeros((2, 1, 1, 2), dtype=np.float32), np.zeros(0, dtype=np.float32))
    ReferencePlanner(Watching(), CENTERS, config).plan(np.array([[2, 2, 2, 2, 2]]), np.array([1]), noise)
    assert [len(tokens) for tokens in seen] == [6, 7, 8, 9, 5, 6, 7, 8, 9]
    assert (seen[0][0], seen[4][0]) == (2, 1)
