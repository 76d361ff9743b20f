"""The beam search itself, on tensors: chooses tokens, keeps score, keeps the best (Janner et al. 2021, section 3.2).

No shape and no branch depends on the data, and nothing is read back from the device, so that a whole search can be
captured as one CUDA graph. The model with its cache is in `pipeline.planning.decoder`; numpy and episodes come in at
`pipeline.planning.beam`.

Shape letters: E episodes, K places in the beam, X copies of each, H horizon, C context transitions, D tokens of a
transition, O observation_dim, A action_dim, N bins, V vocabulary, T transitions planned so far.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.planning.config import PlanningConfig
from pipeline.planning.decoder import Decoder
from pipeline.planning.ranking import Candidates, Ranking, predicted_return, scores
from pipeline.planning.sampling import estimates, greedy_bins, sampled_bins
from pipeline.planning.selection import Kept, best_candidate, kept_candidates


@dataclass(frozen=True)
class SearchInputs:
    """Tensors of one call, all on the device.

    Attributes:
        contexts: (E, C, D) int64 tokens, real transitions at the right.
        observations: (E, O) int64 tokens.
        transitions: (E,) int64, how many transitions of each context are real.
        action_noise: (E, H, K, X, A) uniforms.
        observation_noise: (E, H - 1, K, O) uniforms, or (E, 0) where observations are greedy.
    """

    contexts: Tensor
    observations: Tensor
    transitions: Tensor
    action_noise: Tensor
    observation_noise: Tensor


@dataclass(frozen=True)
class SearchResult:
    """The best sequence of each episode: (E, H, D) int64 tokens, (E, H) estimates, (E,) discounted returns."""

    tokens: Tensor
    rewards: Tensor
    values: Tensor
    predicted_returns: Tensor


class BeamSearch:
    """One search at a time over the episodes that the decoder is shaped for.

    Args:
        config: The search's knobs.
        decoder: The model.
        centers_DN: What the bins of each dimension stand for.
        ranking: What sequences are ranked by.
    """

    def __init__(self, config: PlanningConfig, decoder: Decoder, centers_DN: Tensor, ranking: Ranking) -> None:
        self.config, self.decoder, self.layout = config, decoder, decoder.layout
        self._centers_DN, self._ranking = centers_DN, ranking

    def __call__(self, inputs: SearchInputs) -> SearchResult:
        """Plans `horizon` transitions for each episode."""
        logits_EV = self.decoder.start(inputs.contexts, inputs.observations, inputs.transitions)
        # Until their first action token all sequences are the same one.
        logits_EKXV = logits_EV[:, None, None]
        observations_EKO = inputs.observations[:, None].expand(-1, self.config.beam_width, -1)
        beam = self._empty(inputs)
        for step in range(self.config.horizon):
            grown = self._grow(beam, observations_EKO, logits_EKXV, inputs.action_noise[:, step])
            ranks = scores(self._ranking, self._candidates(grown))
            if step == self.config.horizon - 1:
                return self._result(_kept(grown, best_candidate(ranks)))
            kept = kept_candidates(ranks)
            beam = _kept(grown, kept)
            self.decoder.keep(kept)
            observations_EKO, logits_EKXV = self._next_observations(beam, inputs, step)
        raise AssertionError("a horizon is at least 1")

    def _empty(self, inputs: SearchInputs) -> "_Beam":
        """The beam before the first step: (E, K, 0, ...)."""
        episodes, beams = inputs.observations.shape[0], self.config.beam_width
        tokens = inputs.observations.new_zeros(episodes, beams, 0, self.layout.transition_dim)
        estimates_EKT = self._centers_DN.new_zeros(episodes, beams, 0)
        return _Beam(tokens, estimates_EKT, estimates_EKT, estimates_EKT.new_zeros(episodes, beams))

    def _grow(self, beam: "_Beam", observations_EKO: Tensor, logits_EKXV: Tensor, noise_EKXA: Tensor) -> "_Beam":
        """Copies every sequence X times and adds a transition: actions sampled, reward and value greedy."""
        config, layout = self.config, self.layout
        copies = noise_EKXA.shape[:3]
        likelihood = beam.log_likelihood[:, :, None].expand(copies)
        columns = list(observations_EKO[:, :, None].expand(*copies, -1).unbind(dim=-1))
        for dimension in range(layout.action.start, layout.action.stop):
            uniforms = noise_EKXA[..., dimension - layout.action.start]
            tokens = sampled_bins(logits_EKXV, uniforms, config.temperature, config.k_act, config.cdf_act).expand(
                copies
            )
            likelihood = self._more_likelihood(likelihood, logits_EKXV, tokens)
            columns.append(tokens)
            logits_EKXV = self.decoder.branch(tokens, dimension)
        rewards = self._estimate(logits_EKXV, layout.reward)
        columns.append(greedy_bins(logits_EKXV))
        logits_EKXV = self.decoder.branch(columns[-1], layout.reward)
        values = self._estimate(logits_EKXV, layout.value)
        columns.append(greedy_bins(logits_EKXV))
        return beam.extended(torch.stack(columns, dim=-1), rewards, values, likelihood)

    def _estimate(self, logits_EKXV: Tensor, dimension: int) -> Tensor:
        return estimates(logits_EKXV, self._centers_DN[dimension], self.config)

    def _more_likelihood(self, likelihood: Tensor, logits_V: Tensor, tokens: Tensor) -> Tensor:
        """Adds the tokens' log-probability where the ranking asks for it."""
        if not self._ranking.uses_likelihood:
            return likelihood
        chosen = torch.log_softmax(logits_V, dim=-1).expand(*tokens.shape, -1).gather(-1, tokens[..., None])
        return likelihood + chosen[..., 0]

    def _next_observations(self, beam: "_Beam", inputs: SearchInputs, step: int) -> tuple[Tensor, Tensor]:
        """Returns the (E, K, O) tokens of the next observation and the (E, K, 1, V) logits of the next action."""
        logits_EKV = self._after_value(beam, inputs, step)
        self.decoder.advance()
        columns = []
        for dimension in range(self.layout.observation_dim):
            if self.config.k_obs == 1:
                tokens_EK = greedy_bins(logits_EKV)
            else:
                uniforms_EK = inputs.observation_noise[:, step, :, dimension]
                tokens_EK = sampled_bins(logits_EKV, uniforms_EK, self.config.temperature, self.config.k_obs, None)
            beam.log_likelihood = self._more_likelihood(beam.log_likelihood, logits_EKV, tokens_EK)
            columns.append(tokens_EK)
            logits_EKV = self.decoder.follow(tokens_EK, dimension)
        return torch.stack(columns, dim=-1), logits_EKV[:, :, None]

    def _after_value(self, beam: "_Beam", inputs: SearchInputs, step: int) -> Tensor:
        if self.decoder.shape.context + step + 2 <= self.decoder.shape.window:
            return self.decoder.follow(beam.tokens[:, :, -1, -1], self.layout.value)
        contexts = inputs.contexts[:, None].expand(-1, self.config.beam_width, -1, -1)
        return self.decoder.slide(torch.cat([contexts, beam.tokens], dim=2))

    def _candidates(self, grown: "_Beam") -> Candidates:
        likelihood = grown.log_likelihood if self._ranking.uses_likelihood else None
        return Candidates(
            grown.tokens, grown.rewards, grown.values, likelihood, self.config.discount, self.layout, self._centers_DN
        )

    def _result(self, best: "_Beam") -> SearchResult:
        returns_E1 = predicted_return(self._candidates(best))
        return SearchResult(best.tokens[:, 0], best.rewards[:, 0], best.values[:, 0], returns_E1[:, 0])


@dataclass
class _Beam:
    """What has been planned: (E, K, T, ...) for sequences, (E, K, X, T, ...) for candidates; tokens, estimates, sum."""

    tokens: Tensor
    rewards: Tensor
    values: Tensor
    log_likelihood: Tensor

    def extended(self, tokens_EKXD: Tensor, rewards_EKX: Tensor, values_EKX: Tensor, likelihood_EKX: Tensor) -> "_Beam":
        """Returns the candidates: X copies of every sequence, each with another transition."""
        copies = tokens_EKXD.shape[2]

        def joined(old: Tensor, new: Tensor) -> Tensor:
            repeated = old[:, :, None].expand(-1, -1, copies, *old.shape[2:])
            return torch.cat([repeated, new[:, :, :, None]], dim=3)

        return _Beam(
            joined(self.tokens, tokens_EKXD),
            joined(self.rewards, rewards_EKX),
            joined(self.values, values_EKX),
            likelihood_EKX,
        )


def _kept(candidates: _Beam, kept: Kept) -> _Beam:
    return _Beam(
        kept.of_candidates(candidates.tokens),
        kept.of_candidates(candidates.rewards),
        kept.of_candidates(candidates.values),
        kept.of_candidates(candidates.log_likelihood),
    )
