"""What the decoder asks of a key/value cache, and the one for CUDA: dense, with shapes that no data decides.

Keys and values are in two parts. The shared part is the context and the current observation, once per episode: all
beams' queries meet it in one product. The own part is what a beam has planned. Copies of a beam share its own part too;
while they differ (their actions and reward), their tokens stand behind it, copy beside copy, hidden from each other.
Value tokens are never stored.

Shape letters: E episodes, K beams, X copies, Q queries of a beam (1 or X), H heads, d head width, W width, L tokens.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pipeline.planning.encoding import KeysValues
from pipeline.planning.selection import Kept
from pipeline.planning.weights import Weights
from pipeline.tokens.layout import TransitionLayout


@dataclass(frozen=True)
class SearchShape:
    """How large a search is.

    Attributes:
        episodes: E, searched together.
        beam_width: K.
        copies: X, candidates of each beam.
        context: Past transitions at most.
        horizon: Planned transitions.
        window: Transitions that the model can see.
    """

    episodes: int
    beam_width: int
    copies: int
    context: int
    horizon: int
    window: int

    @property
    def slides(self) -> bool:
        """Whether the last planned transitions do not fit the window together with a full context."""
        return self.context + self.horizon > self.window

    @property
    def planned(self) -> int:
        """Transitions that a beam's own part holds at most: after a slide it holds the whole window."""
        return self.window if self.slides else self.horizon


class Cache(Protocol):
    """Keys and values of a search, and attention over them.

    For each token: `open`, then for each layer `write` (unless it is a value token) and `attend`.
    """

    def start(self, context: KeysValues, visible_EL: Tensor) -> None:
        """Begins a plan with the context and the current observation, of which `visible_EL` says what is real."""

    def open(self, dimension: int) -> None:
        """Begins a token of `dimension`: one per beam, for actions and rewards one per copy."""

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Stores the open token's (E, K, Q, H, d) keys and values."""

    def attend(self, layer: int, q: Tensor) -> Tensor:
        """Returns (E K Q, W) for the open token's (E, K, Q, H, d) queries, which are scaled already."""

    def keep(self, kept: Kept) -> None:
        """Goes on with the kept candidates: each takes its place, with all that it descends from."""

    def replace(self, rows: Tensor, window: KeysValues) -> None:
        """Stores whole windows anew for `rows` of the (E K) beams, (rows, H, L, d)."""

    def restart(self, visible_EL: Tensor) -> None:
        """Forgets everything but the windows that `replace` stored, of which `visible_EL` says what is real."""


def hiding_bias(visible_EL: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns (E, 1, L) for adding to scores: 0 where visible, else -inf."""
    zeros = torch.zeros(visible_EL.shape, device=visible_EL.device, dtype=dtype)
    return zeros.masked_fill(~visible_EL, -torch.inf)[:, None]


class DenseCache:
    """Each beam's own part lies in one piece; beams that move are copied, once per transition.

    Args:
        weights: Of the model: layers, heads, widths, dtype, device.
        layout: Of its transitions.
        shape: Of the search.
    """

    def __init__(self, weights: Weights, layout: TransitionLayout, shape: SearchShape) -> None:
        self.weights, self.layout, self.shape = weights, layout, shape
        device, dtype = weights.tokens.device, weights.product_dtype
        self._branch_tokens = layout.action_dim + 1
        length = shape.planned * (layout.transition_dim - 1) + self._branch_tokens * shape.copies
        size = (shape.episodes, weights.heads, shape.beam_width, length, weights.width // weights.heads)
        self._own = [
            (torch.zeros(size, device=device, dtype=dtype), torch.zeros(size, device=device, dtype=dtype))
            for _ in weights.layers
        ]
        columns = torch.arange(self._branch_tokens * shape.copies, device=device) % shape.copies
        hidden = columns != torch.arange(shape.copies, device=device)[:, None]
        self._hidden_copies = hiding_bias(~hidden, dtype)[:, 0]

    def start(self, context: KeysValues, visible_EL: Tensor) -> None:
        """See `Cache`."""
        self._shared = [(k.flatten(0, 1), v.flatten(0, 1)) for k, v in context]
        self._bias_E1L = hiding_bias(visible_EL, self.weights.product_dtype)
        self._length, self._branched = 0, 0

    def open(self, dimension: int) -> None:
        """See `Cache`."""
        kind = self.layout.kind(dimension)
        if kind == "observation":
            self._at = self._length
            self._length += 1
        elif kind != "value":
            self._at = self._length + self._branched * self.shape.copies
            self._branched += 1

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """See `Cache`."""
        own_k, own_v = self._own[layer]
        slots = slice(self._at, self._at + k.shape[2])
        own_k[..., slots, :] = k.permute(0, 3, 1, 2, 4)
        own_v[..., slots, :] = v.permute(0, 3, 1, 2, 4)

    def attend(self, layer: int, q: Tensor) -> Tensor:
        """See `Cache`."""
        episodes, beams, queries, heads, _ = q.shape
        y = self._attend(layer, q.permute(0, 3, 1, 2, 4).reshape(-1, queries, q.shape[-1]))
        return (
            y.view(episodes, heads, beams, queries, -1).permute(0, 2, 3, 1, 4).reshape(episodes * beams * queries, -1)
        )

    def _attend(self, layer: int, q: Tensor) -> Tensor:
        """Returns (E H K, Q, d) for queries in that order, over both parts in one softmax."""
        batch, queries, head_width = q.shape
        episodes, groups = self.shape.episodes, self.shape.episodes * self.weights.heads
        visible = self._length + self._branched * self.shape.copies
        own_k, own_v = (part.flatten(0, 2)[:, :visible] for part in self._own[layer])
        shared_k, shared_v = self._shared[layer]
        shared = shared_k.shape[1]
        to_shared = torch.bmm(q.view(groups, -1, head_width), shared_k.mT).view(batch, queries, shared)
        scores = torch.cat([to_shared, torch.bmm(q, own_k.mT)], dim=-1)
        scores.view(episodes, -1, scores.shape[-1])[..., : self._bias_E1L.shape[-1]] += self._bias_E1L
        if self._branched and self.shape.copies > 1:
            tail = self._branched * self.shape.copies
            scores[..., -tail:] += self._hidden_copies[:, :tail]
        shares = torch.softmax(scores, dim=-1, dtype=self.weights.dtype).to(q.dtype)
        shares_of_head = shares.view(groups, -1, shares.shape[-1])[..., :shared]
        return torch.baddbmm(torch.bmm(shares_of_head, shared_v).view_as(q), shares[..., shared:], own_v)

    def keep(self, kept: Kept) -> None:
        """See `Cache`."""
        tokens, copies, start = self._branch_tokens, self.shape.copies, self._length
        for part in (part for own in self._own for part in own):
            tail = part[..., start : start + tokens * copies, :].view(*part.shape[:3], tokens, copies, -1)
            chosen = kept.of_candidates(tail.permute(0, 2, 4, 1, 3, 5))
            past = part[..., :start, :]
            past.copy_(past.gather(2, kept.source[:, None, :, None, None].expand_as(past)))
            part[..., start : start + tokens, :] = chosen.permute(0, 2, 1, 3, 4)
        self._length += tokens
        self._branched = 0

    def replace(self, rows: Tensor, window: KeysValues) -> None:
        """See `Cache`."""
        episodes, beams = rows // self.shape.beam_width, rows % self.shape.beam_width
        for own, new in zip(self._own, window, strict=True):
            for part, part_new in zip(own, new, strict=True):
                part[episodes, :, beams, : part_new.shape[2]] = part_new

    def restart(self, visible_EL: Tensor) -> None:
        """See `Cache`."""
        self._shared = [(k[:, :0], v[:, :0]) for k, v in self._shared]
        self._bias_E1L = hiding_bias(visible_EL, self.weights.product_dtype)
        self._length = visible_EL.shape[1]
