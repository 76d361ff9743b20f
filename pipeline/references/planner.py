"""Beam search the slow and obvious way: the oracle of `pipeline.planning.beam`, for tests and for the benchmark.

One episode. At every token the model sees the whole window of every sequence again: no cache, nothing shared. All
choices are made row by row in numpy.

A sequence is at a place 0 to K - 1 of the beam. Its place decides which random numbers it uses, so the rule that
gives places is part of the algorithm (`kept_places`).
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.models.trajectory_transformer import TrajectoryTransformer
from pipeline.planning.config import PlanningConfig
from pipeline.planning.noise import Noise

Floats = NDArray[np.float64]
Tokens = NDArray[np.int64]


@dataclass
class Sequence:
    """One sequence of the beam while it grows.

    Attributes:
        tokens: Context, current observation, and everything planned so far.
        rewards, values: Estimates of each planned step.
        log_likelihood: Sum over the planned action and observation tokens.
    """

    tokens: list[int]
    rewards: list[float]
    values: list[float]
    log_likelihood: float

    def copy(self) -> "Sequence":
        """Returns a sequence that can grow on its own."""
        return Sequence(list(self.tokens), list(self.rewards), list(self.values), self.log_likelihood)

    def predicted_return(self, discount: float) -> float:
        """`sum_i g^i r_i + g^n V_n` of its n planned steps."""
        rewards = sum(discount**i * reward for i, reward in enumerate(self.rewards))
        return rewards + discount ** len(self.rewards) * self.values[-1]


@dataclass(frozen=True)
class ReferencePlan:
    """The best sequence.

    Attributes:
        tokens: (H, D); the first row's observation is the current one.
        rewards, values: (H,) estimates.
        predicted_return: Discounted, from the current step.
    """

    tokens: Tokens
    rewards: Floats
    values: Floats
    predicted_return: float


class ReferencePlanner:
    """Plans one episode at a time.

    Args:
        model: In eval mode; its dtype is the plan's.
        centers: (D, N) what tokens stand for.
        config: Every knob is honoured.
    """

    def __init__(self, model: TrajectoryTransformer, centers: Floats, config: PlanningConfig) -> None:
        self.model, self.centers, self.config, self.layout = model, centers, config, model.layout

    @torch.inference_mode()
    def plan(self, context: Tokens, observation: Tokens, noise: Noise) -> ReferencePlan:
        """Returns the best of the sequences that the search ends with.

        Args:
            context: (c, D) tokens of the last c transitions, c at most `context_transitions`; the model's window may be
                shorter.
            observation: (O,) tokens of the current observation.
            noise: Of this episode and step.
        """
        config = self.config
        start = Sequence([*context.ravel().tolist(), *observation.tolist()], [], [], 0.0)
        beam = [start.copy() for _ in range(config.beam_width)]
        for step in range(config.horizon):
            candidates = [[sequence.copy() for _ in range(config.expansion_factor)] for sequence in beam]
            flat = [copy for copies in candidates for copy in copies]
            self._sample_actions(flat, noise.actions[step].reshape(len(flat), -1))
            self._predict_reward_and_value(flat)
            if step == config.horizon - 1:
                return self._result(flat[int(np.argmax(self._scores(flat)))])
            beam = kept_places(candidates, self._scores(flat).reshape(len(beam), -1))
            self._sample_observations(beam, noise.observations[step] if config.k_obs != 1 else None)
        raise AssertionError("a horizon is at least 1")

    def _logits(self, beam: list[Sequence]) -> Floats:
        """Returns the (rows, V) logits of every sequence's next token, from the last tokens that the model can see.

        Whole transitions are dropped from the front, and positions counted anew, as in the released code.
        """
        device = self.model.position_embedding.device
        tokens = torch.tensor([sequence.tokens for sequence in beam], device=device)
        excess = max(0, tokens.shape[1] - self.model.max_inputs)
        dropped = -(-excess // self.layout.transition_dim)
        logits = self.model(tokens[:, dropped * self.layout.transition_dim :])[:, -1]
        return np.asarray(logits.double().cpu().numpy())

    def _sample_actions(self, rows: list[Sequence], uniforms: NDArray[np.float32]) -> None:
        for column in range(self.layout.action_dim):
            self._append_sampled(rows, uniforms[:, column], self.config.k_act, self.config.cdf_act)

    def _sample_observations(self, rows: list[Sequence], uniforms: NDArray[np.float32] | None) -> None:
        for column in range(self.layout.observation_dim):
            self._append_sampled(rows, None if uniforms is None else uniforms[:, column], self.config.k_obs, None)

    def _append_sampled(
        self, rows: list[Sequence], uniforms: NDArray[np.float32] | None, k: int | None, cdf: float | None
    ) -> None:
        for index, (sequence, logits) in enumerate(zip(rows, self._logits(rows), strict=True)):
            if uniforms is None or k == 1:
                token = int(np.argmax(logits[:-1]))
            else:
                token = sampled_bin(logits, float(uniforms[index]), self.config.temperature, k, cdf)
            sequence.tokens.append(token)
            sequence.log_likelihood += float(np.log(softmax(logits)[token]))

    def _predict_reward_and_value(self, rows: list[Sequence]) -> None:
        for dimension in (self.layout.reward, self.layout.value):
            for sequence, logits in zip(rows, self._logits(rows), strict=True):
                estimates = sequence.rewards if dimension == self.layout.reward else sequence.values
                estimates.append(self._estimate(softmax(logits)[:-1], self.centers[dimension]))
                sequence.tokens.append(int(np.argmax(logits[:-1])))

    def _estimate(self, probabilities_N: Floats, centers_N: Floats) -> float:
        if self.config.value_estimate == "mean":
            return float(probabilities_N @ centers_N)
        reached = np.cumsum(probabilities_N) >= self.config.value_percentile
        return float(centers_N[np.argmax(reached)] if reached.any() else centers_N[-1])

    def _scores(self, rows: list[Sequence]) -> Floats:
        """Returns what sequences are ranked by, as float32: equal sequences tie whatever their last bits."""
        if self.config.ranking == "log_likelihood":
            scores = [sequence.log_likelihood for sequence in rows]
        else:
            scores = [sequence.predicted_return(self.config.discount) for sequence in rows]
        return np.array(scores, dtype=np.float32).astype(np.float64)

    def _result(self, best: Sequence) -> ReferencePlan:
        planned = best.tokens[-self.config.horizon * self.layout.transition_dim :]
        return ReferencePlan(
            np.array(planned).reshape(self.config.horizon, -1),
            np.array(best.rewards),
            np.array(best.values),
            best.predicted_return(self.config.discount),
        )


def softmax(logits: Floats) -> Floats:
    """Returns probabilities of the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def sampled_bin(logits_V: Floats, uniform: float, temperature: float, k: int | None, cdf: float | None) -> int:
    """Returns the bin that `uniform` picks from the filtered distribution; never the stop token, which is last.

    Bins are dropped that are less likely than the k most likely ones, and those whose probability, added to that of
    all less and equally likely bins, stays below `cdf`. Equally likely bins are kept or dropped together. Of what is
    left the first bin is taken whose cumulative probability, in the bins' order, is above `uniform` times the whole.
    """
    probabilities = softmax(logits_V[:-1] / temperature)
    kept = np.ones(len(probabilities), dtype=bool)
    if k is not None and k < len(probabilities):
        kept &= probabilities >= np.sort(probabilities)[-k]
    if cdf is not None:
        at_most_as_likely = [probabilities[probabilities <= p].sum() for p in probabilities]
        kept &= (np.array(at_most_as_likely) >= cdf) | (probabilities == probabilities.max())
    cumulative = np.cumsum(np.where(kept, probabilities, 0.0))
    return int(np.argmax(cumulative > uniform * cumulative[-1]))


def kept_places(candidates: list[list[Sequence]], scores_KX: Floats) -> list[Sequence]:
    """Returns the K best of K * X candidates, each at its place.

    Of equal scores the candidate of the earlier place, then the earlier copy, counts as the better one. The first kept
    copy of a sequence takes over its place; the others take, in order, the places of which no copy was kept.
    """
    places, copies = scores_KX.shape
    order = sorted(np.ndindex(places, copies), key=lambda index: (-scores_KX[index], index))
    kept = sorted(order[:places])
    result: list[Sequence | None] = [None] * places
    homeless = []
    for place, copy in kept:
        if result[place] is None:
            result[place] = candidates[place][copy]
        else:
            homeless.append(candidates[place][copy])
    return [sequence if sequence is not None else homeless.pop(0) for sequence in result]
