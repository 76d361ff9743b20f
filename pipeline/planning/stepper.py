"""What the decoder asks for: one token of every beam through the model, with the keys and values that it meets.

Shape letters: E episodes, K beams, X copies, Q queries of a beam (1 or X), L tokens, V vocabulary, S and D transitions
and their tokens.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from pipeline.planning.encoding import KeysValues
from pipeline.planning.selection import Kept


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


class Stepper(Protocol):
    """The model one token at a time. `pipeline.planning.decoder` encodes whole windows and says which token it is."""

    def start(self, context: KeysValues, visible_EL: Tensor) -> None:
        """Begins a plan with the context and the current observation, of which `visible_EL` says what is real."""

    def step(self, tokens_EKQ: Tensor, positions_E: Tensor, dimension: int) -> Tensor:
        """Returns the (E, K, Q, V) logits after a token of `dimension`, and keeps its keys and values.

        Args:
            tokens_EKQ: Actions and rewards: one per copy. Values and observations: one per beam, so Q is 1.
            positions_E: Where in its window each episode's token stands.
            dimension: Of the transition. A value token is a query only.
        """

    def keep(self, kept: Kept) -> None:
        """Goes on with the kept candidates: each takes its place, with all that it descends from."""

    def slide(self, window_EKSD: Tensor, transitions_E: Tensor) -> None:
        """Keeps the last S transitions only and encodes them anew, at the beginning of the model's window.

        Args:
            window_EKSD: Their tokens, real transitions at the right.
            transitions_E: How many are real.
        """

    def running(self) -> AbstractContextManager[None]:
        """Returns what a whole plan runs in."""
