"""Which token of a transition means what.

A transition is `observation_dim` observation tokens, `action_dim` action tokens, one reward token and one value
token, in this order. It deliberately knows nothing of bin edges (`pipeline.tokens.discretizer`).
"""

from dataclasses import dataclass
from typing import Literal

TokenKind = Literal["observation", "action", "reward", "value"]
TOKEN_KINDS: tuple[TokenKind, ...] = ("observation", "action", "reward", "value")


@dataclass(frozen=True)
class TransitionLayout:
    """The shape of one transition's tokens.

    Attributes:
        observation_dim: O, observation tokens.
        action_dim: A, action tokens (1 for a discrete action).
        num_bins: N, the most bins that any dimension has; tokens are 0 to N - 1.
        bins: Bins of each dimension, D numbers of at most N. A discrete action of n choices has exactly n.
        observation_names: One name per observation token, for reports and errors, such as `desired_goal[0]`.
    """

    observation_dim: int
    action_dim: int
    num_bins: int
    bins: tuple[int, ...]
    observation_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.observation_dim < 1 or self.action_dim < 1 or self.num_bins < 2:
            raise ValueError(
                f"layout is {self.observation_dim} observation and {self.action_dim} action tokens of "
                f"{self.num_bins} bins; expected at least 1, 1 and 2."
            )
        if len(self.bins) != self.transition_dim or max(self.bins) > self.num_bins or min(self.bins) < 1:
            raise ValueError(f"bins is {self.bins}; expected {self.transition_dim} numbers of 1 to {self.num_bins}.")
        if len(self.observation_names) != self.observation_dim:
            raise ValueError(f"observation_names has {len(self.observation_names)}; expected {self.observation_dim}.")

    @classmethod
    def plain(cls, observation_dim: int, action_dim: int, num_bins: int) -> "TransitionLayout":
        """Returns the layout in which every dimension has `num_bins` bins."""
        names = tuple(f"observation[{i}]" for i in range(observation_dim))
        return cls(observation_dim, action_dim, num_bins, (num_bins,) * (observation_dim + action_dim + 2), names)

    @property
    def transition_dim(self) -> int:
        """D, tokens of one transition: O + A + 2."""
        return self.observation_dim + self.action_dim + 2

    @property
    def observation(self) -> slice:
        """Where the observation tokens stand in a transition."""
        return slice(0, self.observation_dim)

    @property
    def action(self) -> slice:
        """Where the action tokens stand."""
        return slice(self.observation_dim, self.observation_dim + self.action_dim)

    @property
    def reward(self) -> int:
        """Where the reward token stands."""
        return self.transition_dim - 2

    @property
    def value(self) -> int:
        """Where the value token stands."""
        return self.transition_dim - 1

    @property
    def stop_token(self) -> int:
        """N, the token that fills a window beyond the end of its episode."""
        return self.num_bins

    @property
    def vocabulary_size(self) -> int:
        """N + 1, the outputs of every head."""
        return self.num_bins + 1

    def kind(self, dimension: int) -> TokenKind:
        """Returns what the token at `dimension` (0 to D - 1) is."""
        if dimension < self.observation_dim:
            return "observation"
        if dimension < self.reward:
            return "action"
        return "reward" if dimension == self.reward else "value"
