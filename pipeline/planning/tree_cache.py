"""The key/value cache for CPUs: a tree of transitions that beams read by index, so nothing is ever copied or moved.

A node is what one candidate added in one planned transition; beams that descend from the same candidate share it, and
beams that survive the longest share the most. A beam is its chain of nodes. Reading through an index is what
`torch.embedding_bag` does with hand-written kernels:

    y = sum_token share[token] * value_row[token]               one bag for each query and head
    scores[node] = sum_c q[c] * key_row[node, c]                one bag for each query, head and node

where a key row holds channel c of all tokens of a node. On one query per beam this is memory-bound, and it measured 5
times the speed of a batched product over one piece of memory per beam (hopper, 105 own tokens, 128 beams, 2 cores:
0.24 ms against 1.03 ms for a layer). The context is a plain product: all queries meet the same keys.

Shape letters: E episodes, K beams, X copies, Q queries of a beam (1 or X), H heads, d head width, W width, P context
tokens, L nodes of a chain, N = E K X nodes of a transition, B = D - 1 stored tokens of a transition.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.planning.cache import SearchShape, hiding_bias
from pipeline.planning.encoding import KeysValues
from pipeline.planning.selection import Kept
from pipeline.planning.weights import Weights
from pipeline.tokens.layout import TransitionLayout

_SUM = 0
"""`torch.embedding_bag`'s mode."""


@dataclass(frozen=True)
class _Reads:
    """Rows that the bags of all queries add up: int32, and where each bag begins.

    `channels` (E, K, Q, H, L + 1, d) has room for what the key rows are multiplied with: the query, for each node.
    """

    channels: Tensor
    key_rows: Tensor
    key_bags: Tensor
    value_rows: Tensor
    value_bags: Tensor


class TreeCache:
    """See `pipeline.planning.cache.Cache`; its arguments are those of `DenseCache`."""

    def __init__(self, weights: Weights, layout: TransitionLayout, shape: SearchShape) -> None:
        self.weights, self.layout, self.shape = weights, layout, shape
        self._block = layout.transition_dim - 1
        self._context = shape.context * self._block
        self._head_width = weights.width // weights.heads
        places = (shape.planned, shape.episodes, shape.beam_width, shape.copies, weights.heads)
        context_rows = shape.episodes * weights.heads * self._context
        node_rows = shape.planned * shape.episodes * shape.beam_width * shape.copies * weights.heads * self._block
        dtype = weights.product_dtype
        self._keys = [torch.zeros(*places, self._head_width, self._block, dtype=dtype) for _ in weights.layers]
        self._values = [torch.zeros(context_rows + node_rows, self._head_width, dtype=dtype) for _ in weights.layers]
        self._key_rows = [keys.view(-1, self._block) for keys in self._keys]
        self._open_slots: dict[tuple[int, int, int], KeysValues] = {}
        self._node_values = [rows[context_rows:].view(*places, self._block, self._head_width) for rows in self._values]
        self._context_values = [
            rows[:context_rows].view(shape.episodes, weights.heads, self._context, self._head_width)
            for rows in self._values
        ]

    def start(self, context: KeysValues, visible_EL: Tensor) -> None:
        """See `Cache`."""
        past, observation = slice(0, self._context), self.layout.observation
        self._context_keys = [k[:, :, past].mT for k, _ in context]
        for layer, (k, v) in enumerate(context):
            self._context_values[layer].copy_(v[:, :, past])
            # The current observation opens the first planned transition: every candidate's node begins with it.
            self._keys[layer][0, ..., observation] = k[:, None, None, :, self._context :].mT
            self._node_values[layer][0, ..., observation, :] = v[:, None, None, :, self._context :]
        self._shared = self._context
        self._bias_E1L = self._bias(visible_EL[:, past])
        self._begin(torch.zeros(0, self.shape.episodes, self.shape.beam_width, dtype=torch.int64))

    def _bias(self, visible_EL: Tensor) -> Tensor | None:
        return None if visible_EL.all() else hiding_bias(visible_EL, self.weights.product_dtype)

    def _begin(self, chain_LEK: Tensor) -> None:
        """Begins a transition below the nodes of `chain_LEK`."""
        self._chain_LEK = chain_LEK
        self._reads: dict[int, _Reads] = {}

    def open(self, dimension: int) -> None:
        """See `Cache`."""
        kind = self.layout.kind(dimension)
        self._written = 0 if kind == "value" else dimension + 1
        self._queries = self.shape.copies if kind in ("action", "reward") else 1
        if dimension == self.layout.action.start:
            self._fork()
        self._slots = self._slots_of(len(self._chain_LEK), dimension) if kind != "value" else []
        if self._queries not in self._reads:
            self._reads[self._queries] = self._make_reads(self._queries)

    def _fork(self) -> None:
        """Gives every copy of a beam a node of its own, which begins with the beam's observation."""
        level, observation = len(self._chain_LEK), self.layout.observation
        for keys, values in zip(self._keys, self._node_values, strict=True):
            keys[level, :, :, 1:, ..., observation] = keys[level, :, :, :1, ..., observation]
            values[level, :, :, 1:, :, observation] = values[level, :, :, :1, :, observation]

    def _make_reads(self, queries: int) -> _Reads:
        nodes_LEKQ = self._nodes(queries)
        # int32 throughout: these are the largest tensors that are made once per transition, and the kernels want it.
        nodes_LEKQ, levels = nodes_LEKQ.to(torch.int32), len(nodes_LEKQ)
        per_level = self.shape.episodes * self.shape.beam_width * self.shape.copies
        heads = self.weights.heads
        first_EKQL = (nodes_LEKQ + _integers(levels)[:, None, None, None] * per_level).permute(1, 2, 3, 0)
        first_EKQHL = first_EKQL[..., None, :] * heads + _integers(heads)[:, None]
        key_rows = first_EKQHL[..., None] * self._head_width + _integers(self._head_width)
        value_rows = (first_EKQHL[..., None] * self._block + _integers(self._block)).flatten(-2)
        if self._shared:
            size = (self.shape.episodes, heads, self._context)
            context_EHP = _integers(self.shape.episodes * heads * self._context).view(size)
            context_rows = context_EHP[:, None, None].expand(*value_rows.shape[:3], -1, -1)
            value_rows = torch.cat([context_rows, value_rows + context_EHP.numel()], dim=-1)
        else:
            value_rows = value_rows + self.shape.episodes * heads * self._context
        channels = torch.empty(key_rows.shape, dtype=self.weights.product_dtype)
        return _Reads(channels, *_bags(key_rows), *_bags(value_rows))

    def _nodes(self, queries: int) -> Tensor:
        """Returns (L + 1, E, K, Q): each query's chain and the node that it grows."""
        shape = self.shape
        places = torch.arange(shape.episodes * shape.beam_width).view(1, shape.episodes, shape.beam_width, 1)
        growing = places * shape.copies + torch.arange(queries)
        chain = self._chain_LEK[..., None].expand(-1, -1, -1, queries)
        return torch.cat([chain, growing])

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """See `Cache`."""
        slot_k, slot_v = self._slots[layer]
        slot_k.copy_(k)
        slot_v.copy_(v)

    def _slots_of(self, level: int, column: int) -> KeysValues:
        """Returns, per layer, where a token's (E, K, Q, H, d) keys and values go; making views takes its time too."""
        name = (level, column, self._queries)
        if name not in self._open_slots:
            self._open_slots[name] = [
                (k[level, :, :, : self._queries, ..., column], v[level, :, :, : self._queries, :, column])
                for k, v in zip(self._keys, self._node_values, strict=True)
            ]
        return self._open_slots[name]

    def attend(self, layer: int, q: Tensor) -> Tensor:
        """See `Cache`."""
        reads, levels = self._reads[self._queries], len(self._chain_LEK) + 1
        channels = reads.channels.copy_(q[..., None, :]).view(-1)
        bags = reads.key_rows, reads.key_bags
        scores = torch.embedding_bag(self._key_rows[layer], *bags, False, _SUM, False, channels)[0]
        scores = scores.view(q.shape[0], -1, self.weights.heads, levels * self._block)
        if self._shared:
            to_context = q.flatten(1, 2).transpose(1, 2) @ self._context_keys[layer]
            scores = torch.cat([to_context.transpose(1, 2), scores], dim=-1)
        if self._written < self._block:
            scores[..., self._written - self._block :] = -torch.inf
        if self._bias_E1L is not None:
            scores[..., : self._bias_E1L.shape[-1]] += self._bias_E1L[:, None]
        shares = torch.softmax(scores, dim=-1).view(-1)
        bags = reads.value_rows, reads.value_bags
        y = torch.embedding_bag(self._values[layer], *bags, False, _SUM, False, shares)[0]
        return y.view(-1, self.weights.width)

    def keep(self, kept: Kept) -> None:
        """See `Cache`."""
        shape = self.shape
        places = torch.arange(shape.episodes)[:, None] * shape.beam_width + kept.source
        nodes = places * shape.copies + kept.copy
        past = self._chain_LEK.gather(2, kept.source.expand_as(self._chain_LEK))
        self._begin(torch.cat([past, nodes[None]]))

    def replace(self, rows: Tensor, window: KeysValues) -> None:
        """See `Cache`."""
        for keys, values, (k, v) in zip(self._keys, self._node_values, window, strict=True):
            size = (*k.shape[:2], k.shape[2] // self._block, self._block, self._head_width)
            k, v = (part.reshape(size).permute(2, 0, 1, 3, 4) for part in (k, v))
            keys.flatten(1, 2)[: len(k), rows, 0] = k.mT
            values.flatten(1, 2)[: len(v), rows, 0] = v

    def restart(self, visible_EL: Tensor) -> None:
        """See `Cache`."""
        shape, levels = self.shape, visible_EL.shape[1] // self._block
        self._shared = 0
        self._bias_E1L = self._bias(visible_EL)
        nodes = torch.arange(shape.episodes * shape.beam_width) * shape.copies
        self._begin(nodes.view(1, shape.episodes, shape.beam_width).expand(levels, -1, -1))


def _integers(count: int) -> Tensor:
    return torch.arange(count, dtype=torch.int32)


def _bags(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Returns all rows, and where the bags along the last axis begin."""
    return rows.flatten(), torch.arange(0, rows.numel(), rows.shape[-1], dtype=torch.int32)
