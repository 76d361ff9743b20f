"""The model with a cache, for one token at a time of every beam: exact, and shaped by the beam search.

Keys and values are in two parts. The shared part is the context and the current observation, once per episode: all
beams' queries meet it in one product. The own part is what a beam has planned. Copies of a beam share its own part too;
while they differ (their actions and reward), their tokens stand behind it, copy beside copy, hidden from each other.
Value tokens are queries only and are never stored.

Shape letters: E episodes, K beams, X copies, Q queries of a beam (1 or X), H heads, d head width, W width,
V vocabulary, D tokens of a transition.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.planning.encoding import WindowEncoder
from pipeline.planning.selection import Kept
from pipeline.planning.weights import Weights, padded_rows
from pipeline.tokens.layout import TransitionLayout

_SLIDE_ROWS = 64
"""Beams whose windows are encoded at a time when the window slides: it bounds memory."""


@dataclass(frozen=True)
class SearchShape:
    """How large a search is: E, K, X, past transitions at most, planned transitions."""

    episodes: int
    beam_width: int
    copies: int
    context: int
    horizon: int


class Decoder:
    """Logits of the next token for all beams of some episodes; which tokens are chosen is the caller's business.

    Order of calls: `start`, then for each planned transition `branch` with every action token and the reward token,
    `keep`, `follow` with the value token (or `slide`), `advance`, and `follow` with every observation token.

    Args:
        weights: Of the model.
        layout: Of its transitions.
        shape: Of the search.
    """

    def __init__(self, weights: Weights, layout: TransitionLayout, shape: SearchShape) -> None:
        self.weights, self.layout, self.shape = weights, layout, shape
        self.heads = weights.heads
        self.window = (weights.positions.shape[0] + 1) // layout.transition_dim
        self._context_encoder = WindowEncoder(weights, layout, shape.context, range(layout.observation_dim))
        self._slides = shape.context + shape.horizon > self.window
        if self._slides:
            value = range(layout.value, layout.transition_dim)
            self._slide_encoder = WindowEncoder(weights, layout, self.window - 1, value)
        self._branch_tokens = layout.action_dim + 1
        self._allocate()

    def _allocate(self) -> None:
        shape, device, dtype = self.shape, self.weights.tokens.device, self.weights.product_dtype
        transitions = self.window if self._slides else shape.horizon
        length = transitions * (self.layout.transition_dim - 1) + self._branch_tokens * shape.copies
        size = (shape.episodes, self.heads, shape.beam_width, length, self.weights.width // self.heads)
        self._own = [
            (torch.zeros(size, device=device, dtype=dtype), torch.zeros(size, device=device, dtype=dtype))
            for _ in self.weights.layers
        ]
        columns = torch.arange(self._branch_tokens * shape.copies, device=device) % shape.copies
        rows = torch.arange(shape.copies, device=device)[:, None]
        hidden = torch.zeros(shape.copies, len(columns), device=device, dtype=dtype)
        self._hidden_copies = hidden.masked_fill(columns != rows, -torch.inf)

    def start(self, context_ECD: Tensor, observation_EO: Tensor, transitions_E: Tensor) -> Tensor:
        """Begins a plan; returns the (E, V) logits of its first action token.

        Args:
            context_ECD: int64 tokens, real transitions at the right.
            observation_EO: int64 tokens of the current observation.
            transitions_E: int64, how many transitions of the context are real.
        """
        x, keys_values = self._context_encoder(context_ECD, observation_EO, transitions_E)
        self._shared = [(k.flatten(0, 1), v.flatten(0, 1)) for k, v in keys_values]
        self._bias_E1L = self._bias(self._context_encoder.visible(transitions_E))
        self._length, self._branched = 0, 0
        self._transitions_E = transitions_E.clone()
        return self.weights.logits(padded_rows(x), self.layout.observation_dim - 1)[: len(x)]

    def _bias(self, visible_EL: Tensor) -> Tensor:
        zeros = torch.zeros(visible_EL.shape, device=visible_EL.device, dtype=self.weights.product_dtype)
        return zeros.masked_fill(~visible_EL, -torch.inf)[:, None]

    def branch(self, tokens_EKX: Tensor, dimension: int) -> Tensor:
        """Returns the (E, K, X, V) logits after a token in which the copies of a beam differ: an action, a reward."""
        copies = self.shape.copies
        self._branched += 1
        logits = self._decode(tokens_EKX, dimension, self._length + (self._branched - 1) * copies)
        return logits.view(*tokens_EKX.shape, -1)

    def follow(self, tokens_EK: Tensor, dimension: int) -> Tensor:
        """Returns the (E, K, V) logits after a token of each beam: a value, an observation."""
        at = None
        if dimension != self.layout.value:
            at = self._length
            self._length += 1
        return self._decode(tokens_EK[:, :, None], dimension, at).view(*tokens_EK.shape, -1)

    def advance(self) -> None:
        """The tokens that follow belong to the next transition."""
        self._transitions_E += 1

    def _decode(self, tokens_EKQ: Tensor, dimension: int, at: int | None) -> Tensor:
        """Runs one token of every beam (or copy) through the model, storing its keys and values from slot `at`."""
        episodes, beams, queries = tokens_EKQ.shape
        transition_dim, bins = self.layout.transition_dim, self.layout.num_bins
        position_E11W = self.weights.positions[self._transitions_E * transition_dim + dimension][:, None, None]
        rows = tokens_EKQ.numel()
        x = padded_rows((self.weights.tokens[tokens_EKQ + dimension * bins] + position_E11W).flatten(0, 2))
        for index, layer in enumerate(self.weights.layers):
            qkv = self.weights.queries_keys_values(layer, x)[:rows].view(episodes, beams, queries, 3, self.heads, -1)
            q, k, v = qkv.permute(3, 0, 4, 1, 2, 5)
            if at is not None:
                own_k, own_v = self._own[index]
                own_k[..., at : at + queries, :] = k
                own_v[..., at : at + queries, :] = v
            y = self._attend(index, q.reshape(-1, queries, q.shape[-1]))
            y = y.view(episodes, self.heads, beams, queries, -1).permute(0, 2, 3, 1, 4).reshape(rows, -1)
            x = self.weights.after_attention(layer, x, padded_rows(y))
        return self.weights.logits(x, dimension)[:rows]

    def _attend(self, index: int, q: Tensor) -> Tensor:
        """Returns (E H K, Q, d) for queries in that order, over both parts in one softmax."""
        episodes, (batch, queries, head_width) = self.shape.episodes, q.shape
        visible = self._length + self._branched * self.shape.copies
        own_k, own_v = (part.flatten(0, 2)[:, :visible] for part in self._own[index])
        shared_k, shared_v = self._shared[index]
        shared = shared_k.shape[1]
        q_of_head = q.view(episodes * self.heads, -1, head_width)
        to_shared = torch.bmm(q_of_head, shared_k.mT).view(batch, queries, shared)
        scores = torch.cat([to_shared, torch.bmm(q, own_k.mT)], dim=-1)
        scores.view(episodes, -1, scores.shape[-1])[..., : self._bias_E1L.shape[-1]] += self._bias_E1L
        if self._branched and self.shape.copies > 1:
            tail = self._branched * self.shape.copies
            scores[..., -tail:] += self._hidden_copies[:, :tail]
        shares = torch.softmax(scores, dim=-1, dtype=self.weights.dtype).to(q.dtype)
        shares_of_head = shares.view(episodes * self.heads, -1, shares.shape[-1])[..., :shared]
        return torch.baddbmm(torch.bmm(shares_of_head, shared_v).view_as(q), shares[..., shared:], own_v)

    def keep(self, kept: Kept) -> None:
        """Goes on with the kept candidates: moves beams to their places, and one copy's tokens into its own part."""
        tokens, copies, start = self._branch_tokens, self.shape.copies, self._length
        for own in self._own:
            for part in own:
                tail = part[..., start : start + tokens * copies, :]
                tail = tail.view(*part.shape[:3], tokens, copies, -1)
                chosen = kept.of_candidates(tail.permute(0, 2, 4, 1, 3, 5))
                self._move(part[..., :start, :], kept.source)
                part[..., start : start + tokens, :] = chosen.permute(0, 2, 1, 3, 4)
        self._length += tokens
        self._branched = 0

    def _move(self, part: Tensor, source_EK: Tensor) -> None:
        if part.device.type == "cpu":
            # Most beams stay where they are (`pipeline.planning.selection`): only the others are copied.
            episodes, places = (source_EK != torch.arange(source_EK.shape[1])).nonzero(as_tuple=True)
            part[episodes, :, places] = part[episodes, :, source_EK[episodes, places]]
        else:
            index = source_EK[:, None, :, None, None].expand(-1, *part.shape[1:2], -1, *part.shape[3:])
            part.copy_(part.gather(2, index))

    def slide(self, past_EKTD: Tensor) -> Tensor:
        """Drops the oldest transitions and encodes the rest anew, as the released code does at every token.

        Instead of `follow` with the value token, where the next transition would not fit the window. All episodes are
        encoded, also those with a shorter past that would still fit, so that none depends on its neighbours.

        Args:
            past_EKTD: Tokens of the context and everything planned, the last value token included.

        Returns:
            The (E, K, V) logits of the next observation's first token.
        """
        slots = self.window - 1
        transitions_E = (self._transitions_E + 1).clamp(max=slots)
        window = past_EKTD[:, :, -slots:].flatten(0, 1)
        transitions_R = transitions_E.repeat_interleave(self.shape.beam_width)
        last = []
        length = slots * (self.layout.transition_dim - 1)
        for rows in torch.split(torch.arange(len(window), device=window.device), _SLIDE_ROWS):
            x, keys_values = self._slide_encoder(window[rows], window[rows, -1, -1:], transitions_R[rows])
            last.append(x)
            for own, new in zip(self._own, keys_values, strict=True):
                for part, part_new in zip(own, new, strict=True):
                    episodes, beams = rows // self.shape.beam_width, rows % self.shape.beam_width
                    part[episodes, :, beams, :length] = part_new
        self._shared = [(k[:, :0], v[:, :0]) for k, v in self._shared]
        visible_EL = self._slide_encoder.visible(transitions_E)[:, :-1]
        self._bias_E1L = self._bias(visible_EL)
        self._length = length
        self._transitions_E = transitions_E - 1
        logits = self.weights.logits(padded_rows(torch.cat(last)), self.layout.value)
        return logits[: len(window)].view(*past_EKTD.shape[:2], -1)
