"""The model one token at a time, for all beams of some episodes: the cached form of its forward pass.

Value tokens are queries only; which keys a query meets is the cache's business (`pipeline.planning.cache`,
`pipeline.planning.tree_cache`).

Shape letters: E episodes, K beams, X copies, Q queries of a beam (1 or X), H heads, W width, V vocabulary, D tokens of
a transition.
"""

import torch
from torch import Tensor

from pipeline.planning.cache import Cache, SearchShape
from pipeline.planning.encoding import WindowEncoder
from pipeline.planning.selection import Kept
from pipeline.planning.weights import Weights, padded_rows
from pipeline.tokens.layout import TransitionLayout

_SLIDE_ROWS = 64
"""Beams whose windows are encoded at a time when the window slides: it bounds memory."""


class Decoder:
    """Logits of the next token for all beams; which tokens are chosen is the caller's business.

    Order of calls: `start`, then for each planned transition `branch` with every action token and the reward token,
    `keep`, `follow` with the value token (or `slide`), `advance`, and `follow` with every observation token.

    Args:
        weights: Of the model.
        layout: Of its transitions.
        shape: Of the search.
        cache: For the same three.
    """

    def __init__(self, weights: Weights, layout: TransitionLayout, shape: SearchShape, cache: Cache) -> None:
        self.weights, self.layout, self.shape, self.cache = weights, layout, shape, cache
        self._context_encoder = WindowEncoder(weights, layout, shape.context, range(layout.observation_dim))
        if shape.slides:
            value = range(layout.value, layout.transition_dim)
            self._slide_encoder = WindowEncoder(weights, layout, shape.window - 1, value)

    def start(self, context_ECD: Tensor, observation_EO: Tensor, transitions_E: Tensor) -> Tensor:
        """Begins a plan; returns the (E, V) logits of its first action token.

        Args:
            context_ECD: int64 tokens, real transitions at the right.
            observation_EO: int64 tokens of the current observation.
            transitions_E: int64, how many transitions of the context are real.
        """
        x, keys_values = self._context_encoder(context_ECD, observation_EO, transitions_E)
        self.cache.start(keys_values, self._context_encoder.visible(transitions_E))
        self._transitions_E = transitions_E.clone()
        return self.weights.logits(padded_rows(x), self.layout.observation_dim - 1)[: len(x)]

    def branch(self, tokens_EKX: Tensor, dimension: int) -> Tensor:
        """Returns the (E, K, X, V) logits after a token in which the copies of a beam differ: an action, a reward."""
        return self._decode(tokens_EKX, dimension)

    def follow(self, tokens_EK: Tensor, dimension: int) -> Tensor:
        """Returns the (E, K, V) logits after a token of each beam: a value, an observation."""
        return self._decode(tokens_EK[:, :, None], dimension)[:, :, 0]

    def advance(self) -> None:
        """The tokens that follow belong to the next transition."""
        self._transitions_E += 1

    def keep(self, kept: Kept) -> None:
        """Goes on with the kept candidates."""
        self.cache.keep(kept)

    def _decode(self, tokens_EKQ: Tensor, dimension: int) -> Tensor:
        """Runs one token of every beam, or of every copy, through the model; returns (E, K, Q, V) logits."""
        transition_dim, bins = self.layout.transition_dim, self.layout.num_bins
        position_E11W = self.weights.positions[self._transitions_E * transition_dim + dimension][:, None, None]
        rows = tokens_EKQ.numel()
        x = padded_rows((self.weights.tokens[tokens_EKQ + dimension * bins] + position_E11W).flatten(0, 2))
        self.cache.open(dimension)
        for index, layer in enumerate(self.weights.layers):
            qkv = self.weights.queries_keys_values(layer, x)[:rows]
            q, k, v = qkv.view(*tokens_EKQ.shape, 3, self.weights.heads, -1).unbind(3)
            if dimension != self.layout.value:
                self.cache.write(index, k, v)
            x = self.weights.after_attention(layer, x, padded_rows(self.cache.attend(index, q)))
        return self.weights.logits(x, dimension)[:rows].view(*tokens_EKQ.shape, -1)

    def slide(self, past_EKTD: Tensor) -> Tensor:
        """Drops the oldest transitions and encodes the rest anew, as the released code does at every token.

        Instead of `follow` with the value token, where the next transition would not fit the window. All episodes are
        encoded, also those with a shorter past that would still fit, so that none depends on its neighbours.

        Args:
            past_EKTD: Tokens of the context and everything planned, the last value token included.

        Returns:
            The (E, K, V) logits of the next observation's first token.
        """
        slots = self.shape.window - 1
        transitions_E = (self._transitions_E + 1).clamp(max=slots)
        window = past_EKTD[:, :, -slots:].flatten(0, 1)
        transitions_R = transitions_E.repeat_interleave(self.shape.beam_width)
        last = []
        for rows in torch.split(torch.arange(len(window), device=window.device), _SLIDE_ROWS):
            x, keys_values = self._slide_encoder(window[rows], window[rows, -1, -1:], transitions_R[rows])
            last.append(x)
            self.cache.replace(rows, keys_values)
        self.cache.restart(self._slide_encoder.visible(transitions_E)[:, :-1])
        self._transitions_E = transitions_E - 1
        logits = self.weights.logits(padded_rows(torch.cat(last)), self.layout.value)
        return logits[: len(window)].view(*past_EKTD.shape[:2], -1)
