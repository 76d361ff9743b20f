import numpy as np
import pytest
import torch

from pipeline.planning.selection import best_candidate, kept_candidates
from pipeline.references.planner import Sequence, kept_places


def kept(scores: list[list[float]]) -> list[tuple[int, int]]:
    result = kept_candidates(torch.tensor([scores]))
    return list(zip(result.source[0].tolist(), result.copy[0].tolist(), strict=True))


def test_a_kept_sequence_stays_at_its_place():
    assert kept([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]) == [(0, 0), (1, 1), (2, 0)]


def test_the_second_copy_takes_the_place_of_a_dropped_sequence():
    assert kept([[1.0, 0.0], [-1.0, -2.0], [3.0, 4.0]]) == [(0, 0), (2, 1), (2, 0)]


def test_several_homeless_copies_take_the_free_places_in_order():
    assert kept([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [9.0, 9.0, 9.0], [0.0, 0.0, 8.0]]) == [
        (2, 1),
        (2, 2),
        (2, 0),
        (3, 2),
    ]


def test_of_equal_scores_the_earlier_place_and_copy_is_kept():
    assert kept([[1.0, 1.0], [1.0, 1.0]]) == [(0, 0), (0, 1)]


def test_the_best_candidate_is_the_first_of_equals():
    best = best_candidate(torch.tensor([[[1.0, 5.0], [5.0, 2.0]], [[0.0, 0.0], [0.0, 1.0]]]))
    assert best.source.tolist() == [[0], [1]]
    assert best.copy.tolist() == [[1], [1]]


@pytest.mark.parametrize("copies", [1, 2, 3])
@pytest.mark.parametrize("levels", [3, 1000])
def test_random_scores_give_the_reference_beam(copies, levels):
    scores = np.random.default_rng(copies).integers(levels, size=(20, 9, copies)).astype(np.float32)
    result = kept_candidates(torch.from_numpy(scores))
    for row, source, copy in zip(scores, result.source.tolist(), result.copy.tolist(), strict=True):
        named = [[Sequence([place, number], [], [], 0.0) for number in range(copies)] for place in range(9)]
        expected = [sequence.tokens for sequence in kept_places(named, row)]
        assert [list(pair) for pair in zip(source, copy, strict=True)] == expected


def test_what_belongs_to_the_kept_is_gathered():
    result = kept_candidates(torch.tensor([[[1.0, 0.0], [-1.0, -2.0], [3.0, 4.0]]]))
    candidates = torch.arange(6).view(1, 3, 2)
    assert result.of_candidates(candidates).tolist() == [[0, 5, 4]]
