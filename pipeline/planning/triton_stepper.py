"""The stepper for CUDA: keys and values stay where they were written, and a sequence knows where that was.

The shared part is the context and the current observation, once per episode. The own part is what has been planned:
each token's keys and values are written once, at the place that its sequence had then. When candidates are kept, only
the table of origins is reordered; sequences with a common ancestor read the same memory, which the GPU's caches notice.
Value tokens are never stored.

Shape letters: E episodes, K beams, X copies, Q queries of a beam (1 or X), P places (K X), H heads, d head width,
W width, L tokens, R rows (E K Q).
"""

import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
import triton
from torch import Tensor

from pipeline.models.private_folder import is_writable, private_folder
from pipeline.planning import triton_kernels
from pipeline.planning.encoding import KeysValues, WindowEncoder
from pipeline.planning.selection import Kept
from pipeline.planning.stepper import SearchShape
from pipeline.planning.weights import Weights, padded_rows
from pipeline.tokens.layout import TransitionLayout

_SLIDE_ROWS = 4096
"""Beams whose windows are encoded at a time when the window slides: it bounds memory."""
_FUSED_WIDTH = 128
"""Models up to this width go through one kernel between two attentions, whose rows then fit a processor's registers."""
_ATTEND = {"ROWS": 4, "TOKENS": 16, "num_warps": 4}
_FUSED = {"ROWS": 16, "INNER": 64, "num_warps": 4}


def keep_kernels() -> None:
    """Lets Triton keep what it compiles below the temporary folder where the home folder is closed.

    Triton cannot do without a place: where that one is another user's, this process gets one that goes unused later.
    """
    if not is_writable(Path(triton.knobs.cache.dir)):
        temporary = Path(tempfile.gettempdir())
        triton.knobs.cache.dir = str(private_folder(temporary, "triton") or tempfile.mkdtemp(dir=temporary))


class TritonStepper:
    """See `pipeline.planning.stepper.Stepper`.

    Args:
        weights: Of the model: layers, heads, widths, dtype, device.
        layout: Of its transitions.
        shape: Of the search.
    """

    def __init__(self, weights: Weights, layout: TransitionLayout, shape: SearchShape) -> None:
        self.weights, self.layout, self.shape = weights, layout, shape
        device = weights.tokens.device
        if shape.slides:
            self._encoder = WindowEncoder(weights, layout, shape.window - 1, begun=0)
        self._branch_tokens = layout.action_dim + 1
        self._head_width = weights.width // weights.heads
        self._own_length = shape.planned * (layout.transition_dim - 1)
        size = (shape.episodes, weights.heads, self._own_length, shape.beam_width * shape.copies, self._head_width)
        # By layer, and keys or values.
        self._own = torch.zeros(len(weights.layers), 2, *size, device=device, dtype=weights.product_dtype)
        rows = padded_rows(torch.empty(shape.episodes * shape.beam_width * shape.copies, 0, device=device)).shape[0]
        # Rows of padding stay zero.
        self._mixed = torch.zeros(rows, weights.width, device=device, dtype=weights.product_dtype)
        self._beams_K = torch.arange(shape.beam_width, device=device, dtype=torch.int32)
        self._origins_EKL = self._own_places()
        self._blocks = _FusedBlocks(weights) if _is_fused(weights) else _Blocks(weights)

    def start(self, context: KeysValues, visible_EL: Tensor) -> None:
        """See `Stepper`."""
        self._shared = [(keys.contiguous(), values.contiguous()) for keys, values in context]
        self._shared_length = visible_EL.shape[1]
        self._hidden_E = _hidden(visible_EL)
        self._origins_EKL = self._own_places()
        self._length, self._branched = 0, 0

    def step(self, tokens_EKQ: Tensor, positions_E: Tensor, dimension: int) -> Tensor:
        """See `Stepper`."""
        rows, weights = tokens_EKQ.numel(), self.weights
        x = weights.embedded(tokens_EKQ + dimension * self.layout.num_bins, positions_E)
        kind, queries = self.layout.kind(dimension), tokens_EKQ.shape[2]
        qkv = self._blocks.first(x)
        for layer in range(len(weights.layers)):
            y = self._attend(layer, qkv, queries, stored=kind != "value")
            qkv = self._blocks.after_attention(layer, x, y)
        if kind == "observation":
            self._length += 1
        elif kind != "value":
            self._branched += 1
        return weights.logits(x, dimension)[:rows].view(*tokens_EKQ.shape, -1)

    def _attend(self, layer: int, qkv: Tensor, queries: int, stored: bool) -> Tensor:
        """Returns (R, W), which the next call overwrites."""
        shape, heads = self.shape, self.weights.heads
        y = self._mixed[: len(qkv)]
        grid = (triton.cdiv(shape.beam_width * queries, _ATTEND["ROWS"]), shape.episodes * heads)
        triton_kernels.attend[grid](
            y,
            qkv,
            *self._shared[layer],
            *self._own[layer],
            self._origins_EKL,
            self._hidden_E,
            self._length,
            self._branched,
            self._shared_length,
            self._own_length,
            shape.beam_width,
            shape.beam_width * shape.copies,
            stored=stored,
            queries=queries,
            heads=heads,
            head_width=self._head_width,
            HEAD=triton.next_power_of_2(self._head_width),
            **_ATTEND,
        )
        return y

    def keep(self, kept: Kept) -> None:
        """See `Stepper`."""
        known, new = self._length, self._length + self._branch_tokens
        source_EK1 = kept.source[:, :, None]
        origins_EKL = self._origins_EKL.gather(1, source_EK1.expand_as(self._origins_EKL))
        origins_EKL[..., known:new] = (source_EK1 * self.shape.copies + kept.copy[:, :, None]).int()
        # An observation's tokens are written where the sequence stands now.
        origins_EKL[..., new:] = self._beams_K[:, None]
        self._origins_EKL, self._length, self._branched = origins_EKL, new, 0

    def slide(self, window_EKSD: Tensor, transitions_E: Tensor) -> None:
        """See `Stepper`."""
        for rows, keys_values in self._encoder.in_parts(window_EKSD, transitions_E, _SLIDE_ROWS):
            self._replace(rows, keys_values)
        visible_EL = self._encoder.visible(transitions_E)
        self._shared_length, self._length = 0, visible_EL.shape[1]
        self._hidden_E = _hidden(visible_EL)
        self._origins_EKL = self._own_places()

    def _replace(self, rows: Tensor, window: KeysValues) -> None:
        episodes, beams = rows // self.shape.beam_width, rows % self.shape.beam_width
        for layer, new in enumerate(window):
            for part, part_new in zip(self._own[layer], new, strict=True):
                part[episodes, :, : part_new.shape[2], beams] = part_new

    def _own_places(self) -> Tensor:
        return self._beams_K[:, None].repeat(self.shape.episodes, 1, self._own_length)

    def running(self) -> AbstractContextManager[None]:
        """See `Stepper`."""
        return nullcontext()


def _hidden(visible_EL: Tensor) -> Tensor:
    """Returns (E,) int32: how many tokens are not real. They stand at the left."""
    return (~visible_EL).sum(dim=1, dtype=torch.int32)


def _is_fused(weights: Weights) -> bool:
    """Returns whether `_FusedBlocks` is the faster one.

    In float32 its products have no tensor cores, and torch's are better.
    """
    return weights.product_dtype == torch.bfloat16 and weights.width <= _FUSED_WIDTH


class _Blocks:
    """What lies between two attentions, in torch's operators."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def first(self, x: Tensor) -> Tensor:
        """Returns (R, 3 W) queries, keys and values of the first layer."""
        return self._weights.queries_keys_values(self._weights.layers[0], x)

    def after_attention(self, layer: int, x: Tensor, y: Tensor) -> Tensor:
        """Adds the heads' output `y` and the MLP of `layer` to `x`; returns (R, 3 W) of the next, (0,) of the last."""
        weights = self._weights
        weights.after_attention(weights.layers[layer], x, y)
        if layer + 1 == len(weights.layers):
            return x.new_empty(0)
        return weights.queries_keys_values(weights.layers[layer + 1], x)


class _FusedBlocks(_Blocks):
    """The same in one launch."""

    def first(self, x: Tensor) -> Tensor:
        """See `_Blocks`."""
        layer = self._weights.layers[0]
        qkv = x.new_empty(len(x), 3 * self._weights.width, dtype=self._weights.product_dtype)
        triton_kernels.queries_keys_values[self._grid(x)](
            qkv,
            x,
            *layer.attention_norm,
            *layer.qkv,
            len(x),
            width=self._weights.width,
            WIDTH=self._padded_width,
            ROWS=_FUSED["ROWS"],
            num_warps=_FUSED["num_warps"],
        )
        return qkv

    def after_attention(self, layer: int, x: Tensor, y: Tensor) -> Tensor:
        """See `_Blocks`."""
        this, is_last = self._weights.layers[layer], layer + 1 == len(self._weights.layers)
        # The last layer has no next one; its own pointers stand in, and are not read.
        following = this if is_last else self._weights.layers[layer + 1]
        qkv = y.new_empty(len(x), 3 * self._weights.width)
        triton_kernels.after_attention[self._grid(x)](
            x,
            qkv,
            y,
            *this.projection,
            *this.mlp_norm,
            *this.expand,
            *this.contract,
            *following.attention_norm,
            *following.qkv,
            len(x),
            width=self._weights.width,
            inner=len(this.expand[0]),
            has_next=not is_last,
            WIDTH=self._padded_width,
            **_FUSED,
        )
        return qkv

    @property
    def _padded_width(self) -> int:
        return max(16, int(triton.next_power_of_2(self._weights.width)))

    def _grid(self, x: Tensor) -> tuple[int]:
        return (triton.cdiv(len(x), _FUSED["ROWS"]),)
