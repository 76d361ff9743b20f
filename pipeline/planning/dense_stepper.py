"""The stepper for CUDA, and for half precision: dense keys and values, with shapes that no data decides.

Keys and values are in two parts. The shared part is the context and the current observation, once per episode: all
beams' queries meet it in one product. The own part is what a beam has planned. Copies of a beam share its own part too;
while they differ (their actions and reward), their tokens stand behind it, copy beside copy, hidden from each other.
Value tokens are never stored.

Shape letters: E episodes, K beams, X copies, Q queries of a beam (1 or X), H heads, d head width, W width, L tokens.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from pipeline.planning.encoding import KeysValues, WindowEncoder
from pipeline.planning.selection import Kept
from pipeline.planning.stepper import SearchShape
from pipeline.planning.weights import Weights, padded_rows
from pipeline.tokens.layout import TransitionLayout

_SLIDE_ROWS = 64
"""Beams whose windows are encoded at a time when the window slides: it bounds memory."""


def hiding_bias(visible_EL: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns (E, 1, L) for adding to scores: 0 where visible, else -inf."""
    zeros = torch.zeros(visible_EL.shape, device=visible_EL.device, dtype=dtype)
    return zeros.masked_fill(~visible_EL, -torch.inf)[:, None]


class DenseStepper:
    """See `pipeline.planning.stepper.Stepper`.

    Each beam's own part lies in one piece. Once per transition all are copied to the places that they take, from one of
    two buffers to the other, so that none is overwritten before it is read.

    Args:
        weights: Of the model: layers, heads, widths, dtype, device.
        layout: Of its transitions.
        shape: Of the search.
    """

    def __init__(self, weights: Weights, layout: TransitionLayout, shape: SearchShape) -> None:
        self.weights, self.layout, self.shape = weights, layout, shape
        device, dtype = weights.tokens.device, weights.product_dtype
        if shape.slides:
            self._encoder = WindowEncoder(weights, layout, shape.window - 1, begun=0)
        self._branch_tokens = layout.action_dim + 1
        length = shape.planned * (layout.transition_dim - 1) + self._branch_tokens * shape.copies
        size = (shape.episodes, weights.heads, shape.beam_width, length, weights.width // weights.heads)
        # By buffer, layer, and keys or values.
        self._buffers = torch.zeros(2, len(weights.layers), 2, *size, device=device, dtype=dtype)
        columns = torch.arange(self._branch_tokens * shape.copies, device=device) % shape.copies
        hidden = columns != torch.arange(shape.copies, device=device)[:, None]
        self._hidden_copies = hiding_bias(~hidden, dtype)[:, 0]

    def start(self, context: KeysValues, visible_EL: Tensor) -> None:
        """See `Stepper`."""
        self._shared = [(k.flatten(0, 1), v.flatten(0, 1)) for k, v in context]
        self._bias_E1L = hiding_bias(visible_EL, self.weights.product_dtype)
        self._own, self._spare = self._buffers
        self._length, self._branched = 0, 0

    def step(self, tokens_EKQ: Tensor, positions_E: Tensor, dimension: int) -> Tensor:
        """See `Stepper`."""
        rows, weights = tokens_EKQ.numel(), self.weights
        x = weights.embedded(tokens_EKQ + dimension * self.layout.num_bins, positions_E)
        slots = self._next_slots(dimension)
        for index, layer in enumerate(weights.layers):
            qkv = weights.queries_keys_values(layer, x)[:rows]
            q, k, v = qkv.view(*tokens_EKQ.shape, 3, weights.heads, -1).permute(3, 0, 4, 1, 2, 5)
            if slots:
                self._own[index, 0, ..., slots, :] = k
                self._own[index, 1, ..., slots, :] = v
            y = self._attend(index, q.flatten(0, 2)).view_as(q).permute(0, 2, 3, 1, 4)
            x = weights.after_attention(layer, x, padded_rows(y.reshape(rows, -1)))
        return weights.logits(x, dimension)[:rows].view(*tokens_EKQ.shape, -1)

    def _next_slots(self, dimension: int) -> slice | None:
        """Returns where in the own part a token of `dimension` is stored, None for a value token."""
        kind, at, copies = self.layout.kind(dimension), self._length, self.shape.copies
        if kind == "value":
            return None
        if kind == "observation":
            self._length += 1
            return slice(at, at + 1)
        self._branched += 1
        return slice(at + (self._branched - 1) * copies, at + self._branched * copies)

    def _attend(self, layer: int, q: Tensor) -> Tensor:
        """Returns (E H K, Q, d) for queries in that order, over both parts in one softmax."""
        batch, queries, head_width = q.shape
        episodes, groups = self.shape.episodes, self.shape.episodes * self.weights.heads
        visible = self._length + self._branched * self.shape.copies
        own_k, own_v = self._own[layer].flatten(1, 3)[:, :, :visible]
        shared_k, shared_v = self._shared[layer]
        shared = shared_k.shape[1]
        to_shared = torch.bmm(q.view(groups, -1, head_width), shared_k.mT).view(batch, queries, shared)
        scores = torch.cat([to_shared, torch.bmm(q, own_k.mT)], dim=-1)
        scores.view(episodes, -1, scores.shape[-1])[..., : self._bias_E1L.shape[-1]] += self._bias_E1L
        if self._branched and self.shape.copies > 1:
            tail = self._branched * self.shape.copies
            scores[..., -tail:] += self._hidden_copies[:, :tail]
        # In half precision too it adds up in float32.
        shares = torch.softmax(scores, dim=-1)
        shares_of_head = shares.view(groups, -1, shares.shape[-1])[..., :shared]
        return torch.baddbmm(torch.bmm(shares_of_head, shared_v).view_as(q), shares[..., shared:], own_v)

    def keep(self, kept: Kept) -> None:
        """See `Stepper`."""
        tokens, copies, start = self._branch_tokens, self.shape.copies, self._length
        past, tail = self._own[..., :start, :], self._own[..., start : start + tokens * copies, :]
        # (layers, 2, E, H, K, tokens, X, d): the candidates' own tokens, of which the kept ones are taken.
        candidates = tail.unflatten(-2, (tokens, copies)).permute(2, 4, 6, 0, 1, 3, 5, 7)
        source = kept.source[:, None, :, None, None].expand_as(past)
        torch.gather(past, 4, source, out=self._spare[..., :start, :])
        self._spare[..., start : start + tokens, :] = kept.of_candidates(candidates).permute(2, 3, 0, 4, 1, 5, 6)
        self._own, self._spare = self._spare, self._own
        self._length += tokens
        self._branched = 0

    def slide(self, window_EKSD: Tensor, transitions_E: Tensor) -> None:
        """See `Stepper`."""
        for rows, keys_values in self._encoder.in_parts(window_EKSD, transitions_E, _SLIDE_ROWS):
            self._replace(rows, keys_values)
        self._shared = [(k[:, :0], v[:, :0]) for k, v in self._shared]
        visible_EL = self._encoder.visible(transitions_E)
        self._bias_E1L = hiding_bias(visible_EL, self.weights.product_dtype)
        self._length = visible_EL.shape[1]

    def _replace(self, rows: Tensor, window: KeysValues) -> None:
        episodes, beams = rows // self.shape.beam_width, rows % self.shape.beam_width
        for layer, new in enumerate(window):
            for part, part_new in zip(self._own[layer], new, strict=True):
                part[episodes, :, beams, : part_new.shape[2]] = part_new

    def running(self) -> AbstractContextManager[None]:
        """See `Stepper`."""
        return nullcontext()
