"""Whole windows through the model in one pass: the context when a plan begins, every beam when its window slides.

Windows stand at the right: a shorter past has masked transitions at its left, so that shapes are the same for all.
Value tokens are left out, because nothing attends to them.

Shape letters: B windows, E episodes, K beams, S transition slots, T tokens of the transition that follows, L encoded
tokens, D tokens of a transition, W width, H heads.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.planning.weights import Weights, padded_rows
from pipeline.tokens.layout import TransitionLayout

KeysValues = list[tuple[Tensor, Tensor]]
"""Per layer (B, H, L, W / H) keys and values."""


def joined(parts: Sequence[KeysValues]) -> KeysValues:
    """Returns the keys and values of the parts' windows, one after another."""
    return [
        (torch.cat([keys for keys, _ in layer]), torch.cat([values for _, values in layer]))
        for layer in zip(*parts, strict=True)
    ]


class WindowEncoder:
    """Encodes past transitions and the beginning of the next.

    Args:
        weights: Of the model.
        layout: Of its transitions.
        slots: S, past transitions at most.
        begun: T, tokens of the next transition.
    """

    def __init__(self, weights: Weights, layout: TransitionLayout, slots: int, begun: int) -> None:
        self.weights, self.layout, self.slots = weights, layout, slots
        device = weights.tokens.device
        past = layout.transition_dim - 1
        self._dimensions_L = torch.tensor([*range(past)] * slots + [*range(begun)], device=device)
        self._slots_L = torch.arange(slots * past + begun, device=device) // past
        length = slots * past + begun
        self._causal_LL = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        self._self_LL = torch.eye(length, dtype=torch.bool, device=device)

    def visible(self, transitions_B: Tensor) -> Tensor:
        """Returns (B, L), True for the tokens of the last `transitions_B` slots and of the next transition."""
        return self._slots_L >= self.slots - transitions_B[:, None]

    def __call__(self, past_BSD: Tensor, next_BT: Tensor, transitions_B: Tensor) -> tuple[Tensor, KeysValues]:
        """Returns the (B, W) residual stream at the last token, and the keys and values of all tokens.

        Args:
            past_BSD: Tokens; what stands in masked slots does not matter as long as it is a token.
            next_BT: The first tokens of the next transition.
            transitions_B: How many of the slots are real, 0 to S.
        """
        tokens_BL = torch.cat([past_BSD[:, :, :-1].flatten(1), next_BT], dim=1)
        shift_B1 = (self.slots - transitions_B)[:, None]
        positions_BL = (self._slots_L - shift_B1) * self.layout.transition_dim + self._dimensions_L
        rows_BL = tokens_BL + self._dimensions_L * self.layout.num_bins
        x = self.weights.tokens[rows_BL] + self.weights.positions[positions_BL.clamp(min=0)]
        visible_BL = self.visible(transitions_B)
        # A masked token sees itself: a softmax over nothing would be NaN.
        mask_B1LL = (self._causal_LL & visible_BL[:, None, :] | self._self_LL & ~visible_BL[:, :, None])[:, None]
        shape = x.shape
        x = padded_rows(x.flatten(0, 1))
        keys_values = []
        for layer in self.weights.layers:
            qkv = self.weights.queries_keys_values(layer, x)[: tokens_BL.numel()]
            q, k, v = qkv.view(*shape[:2], 3, self.weights.heads, -1).permute(2, 0, 3, 1, 4)
            y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask_B1LL, scale=1.0)
            x = self.weights.after_attention(layer, x, padded_rows(y.transpose(1, 2).reshape(tokens_BL.numel(), -1)))
            keys_values.append((k, v))
        return x[: tokens_BL.numel()].view(shape)[:, -1], keys_values

    def in_parts(
        self, windows_EKSD: Tensor, transitions_E: Tensor, together: int
    ) -> Iterator[tuple[Tensor, KeysValues]]:
        """Yields the keys and values of the windows of all beams, some at a time, with which of the (E K) they are.

        Args:
            windows_EKSD: Tokens of past transitions alone.
            transitions_E: How many of the slots are real.
            together: Windows at a time: it bounds memory.
        """
        windows, transitions = windows_EKSD.flatten(0, 1), transitions_E.repeat_interleave(windows_EKSD.shape[1])
        for rows in torch.split(torch.arange(len(windows), device=windows.device), together):
            _, keys_values = self(windows[rows], windows[rows, 0, :0], transitions[rows])
            yield rows, keys_values
