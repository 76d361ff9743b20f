"""The stepper for CPUs: a tree of transitions that beams read by index, so no beam is ever copied or moved.

A node is what one candidate added in one planned transition, or one transition of an episode's context. A beam is its
chain of nodes: beams that descend from the same candidate share its node, and all beams of an episode share its
context. Copies of a beam have nodes of their own, and all but the first take over its observation. The inner loops are
in `pipeline.planning.kernels`.

Shape letters: E episodes, K beams, X copies, Q queries of a beam (1 or X), H heads, d head width, B = D - 1 stored
tokens of a transition, L tokens, R = E K Q rows.
"""

import itertools
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.planning.encoding import KeysValues
from pipeline.planning.kernels import COLUMNS, LANES, ROWS, Network, Nodes, Reals, Token, decode
from pipeline.planning.selection import Kept
from pipeline.planning.stepper import SearchShape
from pipeline.planning.weights import Weights
from pipeline.tokens.layout import TransitionLayout

Indices = NDArray[np.int64]
_NO_HEAD = -1
"""For tokens whose keys and values alone are wanted."""


class CompiledStepper:
    """See `pipeline.planning.stepper.Stepper`. Uses as many threads as torch has when it is made.

    Args:
        weights: Of the model, on the CPU.
        layout: Of its transitions.
        shape: Of the search.
    """

    def __init__(self, weights: Weights, layout: TransitionLayout, shape: SearchShape) -> None:
        self.layout, self.shape = layout, shape
        self._block = layout.transition_dim - 1
        self._beams = shape.episodes * shape.beam_width
        self._context_nodes = shape.episodes * shape.context
        self._network = _network(weights)
        self._nodes = self._empty_nodes(weights.heads, weights.width // weights.heads)
        self._x = np.zeros((self._beams * shape.copies + ROWS, weights.width), self._network.tokens.dtype)
        self._dtype = weights.dtype
        self._threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="planner")
        self._compile()

    def _compile(self) -> None:
        """Runs no rows: ten seconds of a machine's first planner, which are none of an episode's first decision."""
        none = np.zeros(0, dtype=np.int64)
        self._decode(_Rows(none, none, none, none, none), np.zeros((0, 0), dtype=np.int64), none, none, 0, head=0)

    def _empty_nodes(self, heads: int, head_width: int) -> Nodes:
        """Returns nodes for the context, for each beam's chain, and for each candidate."""
        count = self._context_nodes + (self.shape.planned + self.shape.copies) * self._beams
        size, panels = (len(self._network.qkv), count, heads), -(-self._block // LANES)
        return Nodes(
            keys=_aligned_zeros((*size, panels, head_width, LANES), like=self._network.tokens),
            values=_aligned_zeros((*size, self._block, head_width), like=self._network.tokens),
        )

    def start(self, context: KeysValues, visible_EL: Tensor) -> None:
        """See `Stepper`."""
        shape, past = self.shape, self.shape.context * self._block
        self._hidden_E = (~visible_EL).sum(dim=1).numpy() // self._block
        chain_CE = np.arange(self._context_nodes).reshape(shape.episodes, shape.context).T
        self._begin(np.repeat(chain_CE, shape.beam_width, axis=1))
        # The current observation opens the first planned transition.
        first_copies = self._growing[:: shape.copies]
        for layer, keys_values in enumerate(context):
            for name, part in zip(Nodes._fields, keys_values, strict=True):
                self._store(name, layer, np.arange(self._context_nodes), self._by_transition(part[:, :, :past]))
                self._store(name, layer, first_copies, part[:, :, past:].repeat_interleave(shape.beam_width, dim=0))

    def _by_transition(self, part_EHLd: Tensor) -> Tensor:
        """Returns (n transitions, H, B, d): the transitions of the first window, then those of the second."""
        windows, heads, length, head_width = part_EHLd.shape
        size = (windows, heads, length // self._block, self._block, head_width)
        return part_EHLd.reshape(size).transpose(1, 2).flatten(0, 1)

    def _store(self, name: str, layer: int, nodes: Indices, part_nHTd: Tensor) -> None:
        """Writes the first tokens of nodes."""
        part = part_nHTd.numpy()
        if name == "values":
            self._nodes.values[layer, nodes, :, : part.shape[2]] = part
            return
        keys = self._nodes.keys
        padded = np.zeros((*part.shape[:2], keys.shape[3] * LANES, part.shape[3]), part.dtype)
        padded[:, :, : part.shape[2]] = part
        keys[layer, nodes] = padded.reshape(*part.shape[:2], keys.shape[3], LANES, part.shape[3]).swapaxes(3, 4)

    def _begin(self, chain: Indices) -> None:
        """Begins a transition below the nodes of `chain`, (levels, E K)."""
        self._chain = np.ascontiguousarray(chain)
        self._rows: dict[int, _Rows] = {}
        # The first free nodes are those that were given up last, and still in the processor's caches.
        free = np.ones(self._nodes.keys.shape[1], dtype=np.bool_)
        free[self._chain] = False
        self._growing = np.flatnonzero(free)[: self._beams * self.shape.copies]

    def step(self, tokens_EKQ: Tensor, positions_E: Tensor, dimension: int) -> Tensor:
        """See `Stepper`."""
        queries = tokens_EKQ.shape[2]
        positions = np.repeat(positions_E.numpy(), self.shape.beam_width * queries)
        rows, tokens_R = self._rows_of(queries), tokens_EKQ.numpy().ravel()
        logits_RV = self._decode(rows, self._chain, tokens_R, positions, dimension, head=dimension)
        return logits_RV.view(*tokens_EKQ.shape, -1)

    def _decode(
        self, rows: "_Rows", chain: Indices, tokens_R: Indices, positions_R: Indices, dimension: int, head: int
    ) -> Tensor:
        """Gives every thread its share of the rows, and takes one itself; returns (R, V) logits of `head`, if any."""
        token = Token(
            **rows._asdict(),
            chain=chain,
            embeddings=tokens_R + dimension * self.layout.num_bins,
            positions=positions_R,
            head=head,
            column=-1 if dimension == self.layout.value else dimension,
            forks=self.layout.observation_dim if dimension == self.layout.action.start else 0,
        )
        logits_RV = torch.empty(len(tokens_R), self.layout.vocabulary_size, dtype=self._dtype)
        arguments = (token, self._network, self._nodes, self._x, logits_RV.numpy())
        blocks = -(-len(tokens_R) // ROWS)
        ends = [min(len(tokens_R), ROWS * (blocks * part // self._threads)) for part in range(self._threads + 1)]
        others = [
            self._pool.submit(decode, first, last, *arguments)
            for first, last in itertools.pairwise(ends[:-1])
            if first < last
        ]
        decode(ends[-2], ends[-1], *arguments)
        for other in others:
            other.result()
        return logits_RV

    def _rows_of(self, queries: int) -> "_Rows":
        if queries not in self._rows:
            self._rows[queries] = self._make_rows(queries)
        return self._rows[queries]

    def _make_rows(self, queries: int) -> "_Rows":
        shape = self.shape
        beams, copies = np.repeat(np.arange(self._beams), queries), np.tile(np.arange(queries), self._beams)
        # Beams with the same past beside each other find it in the processor's caches.
        order = np.lexsort((copies, *self._chain[::-1, beams]))
        return _Rows(
            order=order,
            beams=beams,
            hidden=np.repeat(self._hidden_E, shape.beam_width * queries),
            growing=self._growing[beams * shape.copies + copies],
            origins=self._growing[beams * shape.copies],
        )

    def keep(self, kept: Kept) -> None:
        """See `Stepper`."""
        shape = self.shape
        first_places = np.arange(shape.episodes)[:, None] * shape.beam_width
        sources = (first_places + kept.source.numpy()).ravel()
        nodes = self._growing[sources * shape.copies + kept.copy.numpy().ravel()]
        self._begin(np.concatenate([self._chain[:, sources], nodes[None]]))

    def slide(self, window_EKSD: Tensor, transitions_E: Tensor) -> None:
        """See `Stepper`. What beams share is encoded once: level by level, each node in its old place."""
        levels, columns = window_EKSD.shape[2], self._block
        self._hidden_E = levels - transitions_E.numpy()
        self._begin(self._chain[-levels:])
        tokens_RSD = window_EKSD.flatten(0, 1).numpy()
        for level in range(levels):
            nodes, beams = np.unique(self._chain[level], return_index=True)
            hidden = self._hidden_E[beams // self.shape.beam_width]
            nodes, beams, hidden = (part[hidden <= level] for part in (nodes, beams, hidden))
            rows = _Rows(np.arange(len(nodes)), beams, hidden, growing=nodes, origins=nodes)
            for column in range(columns):
                position = (level - hidden) * self.layout.transition_dim + column
                tokens = tokens_RSD[beams, level, column]
                self._decode(rows, self._chain[:level], tokens, position, column, head=_NO_HEAD)

    @contextmanager
    def running(self) -> Iterator[None]:
        """See `Stepper`. Torch gets one thread: its idle ones go on spinning for some ms, in the way of ours.

        With 2 threads each on 2 cores a plan at hopper took 1.5 s, and 1.0 s like this.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


class _Rows(NamedTuple):
    """What all tokens of a transition with as many queries say of their rows; see `Token`."""

    order: Indices
    beams: Indices
    hidden: Indices
    growing: Indices
    origins: Indices


def _network(weights: Weights) -> Network:
    layers = weights.layers

    def stacked(name: str) -> Reals:
        return np.stack([getattr(layer, name)[0].numpy() for layer in layers])

    def biases(name: str) -> Reals:
        return np.stack([getattr(layer, name)[1].numpy() for layer in layers])

    return Network(
        tokens=weights.tokens.numpy(),
        positions=weights.positions.numpy(),
        attention_scale=stacked("attention_norm"),
        attention_shift=biases("attention_norm"),
        qkv=_panels(stacked("qkv")),
        qkv_bias=biases("qkv"),
        projection=_panels(stacked("projection")),
        projection_bias=biases("projection"),
        mlp_scale=stacked("mlp_norm"),
        mlp_shift=biases("mlp_norm"),
        expand=_panels(stacked("expand")),
        expand_bias=biases("expand"),
        contract=_panels(stacked("contract")),
        contract_bias=biases("contract"),
        scale=weights.norm[0].numpy(),
        shift=weights.norm[1].numpy(),
        head=_panels(weights.head_DVW.numpy()),
        head_bias=weights.head_bias_DV.numpy(),
    )


def _panels(matrices_nNK: Reals) -> Reals:
    """Returns (n, panels, K, COLUMNS) of the transposed matrices, the last panel filled up with zeros."""
    count, outputs, depth = matrices_nNK.shape
    panels = _aligned_zeros((count, -(-outputs // COLUMNS), depth, COLUMNS), like=matrices_nNK)
    for panel in range(panels.shape[1]):
        part = matrices_nNK[:, panel * COLUMNS : (panel + 1) * COLUMNS]
        panels[:, panel, :, : part.shape[1]] = part.swapaxes(1, 2)
    return panels


def _aligned_zeros(shape: tuple[int, ...], like: Reals) -> Reals:
    """Returns zeros that begin where a vector of 64 bytes may; numpy asks for huge pages, but begins at 16."""
    count = math.prod(shape)
    memory = np.zeros(count + 64 // like.itemsize, like.dtype)
    skipped = -memory.ctypes.data % 64 // like.itemsize
    return memory[skipped : skipped + count].reshape(shape)
