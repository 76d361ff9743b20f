"""The model one token at a time, for all beams of some episodes: the cached form of its forward pass.

Whole windows are encoded here; single tokens, with their keys and values, are the stepper's business
(`pipeline.planning.stepper`).

Shape letters: E episodes, K beams, X copies, Q queries of a beam (1 or X), H heads, W width, V vocabulary, D tokens of
a transition.
"""

import torch
from torch import Tensor

from pipeline.planning.encoding import KeysValues, WindowEncoder, joined
from pipeline.planning.selection import Kept
from pipeline.planning.stepper import SearchShape, Stepper
from pipeline.planning.weights import Weights, padded_rows
from pipeline.tokens.layout import TransitionLayout


class Decoder:
    """Logits of the next token for all beams; which tokens are chosen is the caller's business.

    Order of calls: `start`, then for each planned transition `branch` with every action token and the reward token,
    `keep`, `follow` with the value token (or `slide`), `advance`, and `follow` with every observation token.

    Args:
        weights: Of the model.
        layout: Of its transitions.
        shape: Of the search.
        stepper: For the same three.
    """

    def __init__(self, weights: Weights, layout: TransitionLayout, shape: SearchShape, stepper: Stepper) -> None:
        self.weights, self.layout, self.shape, self.stepper = weights, layout, shape, stepper
        self._context_encoder = WindowEncoder(weights, layout, shape.context, layout.observation_dim)

    def start(self, context_ECD: Tensor, observation_EO: Tensor, transitions_E: Tensor) -> Tensor:
        """Begins a plan; returns the (E, V) logits of its first action token.

        Args:
            context_ECD: int64 tokens, real transitions at the right.
            observation_EO: int64 tokens of the current observation.
            transitions_E: int64, how many transitions of the context are real.
        """
        # A CPU's libraries promise no equal rows: there each episode is encoded alone, whatever is beside it.
        together = 1 if context_ECD.device.type == "cpu" else len(context_ECD)
        windows = zip(
            *(torch.split(part, together) for part in (context_ECD, observation_EO, transitions_E)), strict=True
        )
        logits, contexts = zip(*(self._encoded(*window) for window in windows), strict=True)
        self.stepper.start(joined(contexts), self._context_encoder.visible(transitions_E))
        self._transitions_E = transitions_E.clone()
        return torch.cat(logits)

    def _encoded(self, context_BCD: Tensor, observation_BO: Tensor, transitions_B: Tensor) -> tuple[Tensor, KeysValues]:
        x, keys_values = self._context_encoder(context_BCD, observation_BO, transitions_B)
        return self.weights.logits(padded_rows(x), self.layout.observation_dim - 1)[: len(x)], keys_values

    def branch(self, tokens_EKX: Tensor, dimension: int) -> Tensor:
        """Returns the (E, K, X, V) logits after a token in which the copies of a beam differ: an action, a reward."""
        return self._step(tokens_EKX, dimension)

    def follow(self, tokens_EK: Tensor, dimension: int) -> Tensor:
        """Returns the (E, K, V) logits after a token of each beam: a value, an observation."""
        return self._step(tokens_EK[:, :, None], dimension)[:, :, 0]

    def advance(self) -> None:
        """The tokens that follow belong to the next transition."""
        self._transitions_E += 1

    def keep(self, kept: Kept) -> None:
        """Goes on with the kept candidates."""
        self.stepper.keep(kept)

    def _step(self, tokens_EKQ: Tensor, dimension: int) -> Tensor:
        return self.stepper.step(tokens_EKQ, self._transitions_E * self.layout.transition_dim + dimension, dimension)

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
        window_EKSD, transitions_E = past_EKTD[:, :, -slots:], (self._transitions_E + 1).clamp(max=slots)
        self.stepper.slide(window_EKSD, transitions_E)
        self._transitions_E = transitions_E - 1
        return self.follow(window_EKSD[:, :, -1, self.layout.value], self.layout.value)
