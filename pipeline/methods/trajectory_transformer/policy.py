"""The Trajectory Transformer as a policy: it executes the first actions of its best plan, and plans again.

Shape letters: O observation_dim, A action_dim, D tokens of a transition, C context transitions.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.acting import Decision, Plan, Vector
from pipeline.models.trajectory_transformer import TrajectoryTransformer
from pipeline.planning.beam import BeamPlanner, PlanRequest
from pipeline.planning.config import PlanningConfig
from pipeline.planning.noise import plan_noise
from pipeline.planning.ranking import Ranking
from pipeline.tokens.discretizer import Discretizer


@dataclass
class _Episode:
    """What the planner remembers of a running episode: tokens of the last C transitions, and the plan it follows."""

    seed: int
    context: deque[NDArray[np.int64]]
    step: int = 0
    observation: NDArray[np.int64] | None = None
    waiting: deque[Vector] = field(default_factory=deque)


class PlannerPolicy:
    """Executes the first `plan_every` actions of the best plan, then plans again from the last C real transitions.

    Args:
        model, discretizer, config, num_slots, device, ranking: As for `BeamPlanner`.
    """

    def __init__(
        self,
        model: TrajectoryTransformer,
        discretizer: Discretizer,
        config: PlanningConfig,
        num_slots: int,
        device: str = "cpu",
        ranking: Ranking | None = None,
    ) -> None:
        self.num_slots = num_slots
        self._planner = BeamPlanner(model, discretizer, config, num_slots, device, ranking)
        self._config, self._layout, self._discretizer = config, model.layout, discretizer
        self._episodes: dict[int, _Episode] = {}

    def reset(self, slot: int, seed: int) -> None:
        """See `Policy`."""
        self._episodes[slot] = _Episode(seed, deque(maxlen=self._config.context_transitions))

    def act(self, observations: Mapping[int, Vector]) -> dict[int, Decision]:
        """See `Policy`."""
        requests: list[PlanRequest | None] = [None] * self.num_slots
        for slot, observation in observations.items():
            episode = self._episodes[slot]
            tokens = self._discretizer.encode_columns(observation, self._layout.observation).astype(np.int64)
            episode.observation = tokens
            if not episode.waiting:
                noise = plan_noise(self._config, self._layout, episode.seed, episode.step)
                requests[slot] = PlanRequest(self._context(episode), tokens, noise)
        plans = self._planner.plan(requests)
        return {slot: self._decide(self._episodes[slot], plans[slot]) for slot in observations}

    def _context(self, episode: _Episode) -> NDArray[np.int64]:
        rows = np.array(episode.context, dtype=np.int64)
        return rows.reshape(len(episode.context), self._layout.transition_dim)

    def _decide(self, episode: _Episode, plan: Plan | None) -> Decision:
        if plan is not None:
            episode.waiting.extend(plan.actions[: self._config.plan_every])
        action = episode.waiting.popleft()
        episode.step += 1
        return Decision(action, math.nan if plan is None else plan.predicted_return, plan)

    def record(self, slot: int, action: Vector, reward: float) -> None:
        """See `Policy`."""
        episode, layout = self._episodes[slot], self._layout
        assert episode.observation is not None, "record comes after act"
        taken = np.array([*action, reward], dtype=np.float64)
        tokens = self._discretizer.encode_columns(taken, slice(layout.action.start, layout.reward + 1))
        # The value token of a real transition is a placeholder: the model lets nothing attend to it.
        episode.context.append(np.concatenate([episode.observation, tokens.astype(np.int64), [0]]))
