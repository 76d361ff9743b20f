"""A small environment with Dict observations and discrete actions, and one whose episodes never end."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete


class Corridor(gymnasium.Env[Any, Any]):
    """Five cells; action 1 goes left, 2 right; the right end terminates."""

    observation_space = Dict({"place": Box(0, 4, (1,), np.float32), "goal": Box(0, 4, (1,), np.float32)})
    action_space = Discrete(2, start=1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._place = int(self.np_random.integers(3))
        return self._observation(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self._place = max(0, self._place + (1 if action == 2 else -1))
        return self._observation(), float(self._place), self._place == 4, False, {}

    def _observation(self) -> dict[str, Any]:
        return {"place": np.array([self._place], np.float32), "goal": np.array([4], np.float32)}


gymnasium.register("Corridor-v0", entry_point="tests.collection.mazes:Corridor", max_episode_steps=40)
gymnasium.register("EndlessCorridor-v0", entry_point="tests.collection.mazes:Corridor")
