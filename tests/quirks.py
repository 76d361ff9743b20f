"""An environment with the quirks that real ones have, one at a time."""

import sys
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

from pipeline.environments import EnvironmentConfig

ID = "tests.quirks:Quirky-v0"


class Quirky(gymnasium.Env[Any, Any]):
    """Observes three numbers, or a Dict of them and the clock; each action moves the first; ten steps.

    Args:
        quirk: What is odd about it, one of those that the code below names; "" is as Gymnasium wants it.
        is_dict: Observe `{"place": (3,), "clock": (1,)}` instead of `(3,)`.
        render_mode: Gymnasium's; it draws nothing.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium's own form)
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, quirk: str = "", is_dict: bool = False, render_mode: str | None = None) -> None:
        if quirk == "constructor raises":
            raise RuntimeError("licence server is\nnot reachable")
        if quirk == "cannot draw" and render_mode:
            raise TypeError("unexpected keyword argument 'render_mode'")
        if quirk == "constructor exits":
            sys.exit(3)
        self.quirk, self.is_dict, self.render_mode = quirk, is_dict, render_mode
        plain = Box(-10.0, 10.0, (3,), np.float64)
        self.observation_space = Dict({"place": plain, "clock": Box(0, 10, (1,))}) if is_dict else plain
        self.x, self.clock = np.zeros(3), np.zeros(1, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if self.quirk == "reset without seed":
            raise TypeError("reset() got an unexpected keyword argument 'seed'")
        super().reset(seed=seed)
        self.x[:] = self.np_random.uniform(-1, 1, 3)
        self.clock[:] = 0
        return self.observation() if self.quirk == "reset without info" else (self.observation(), {})

    def step(self, action: Any) -> Any:
        self.clock += 1
        self.x[0] += 0.1 * float(action[0])
        if self.quirk == "changes the action":
            action *= 0
        if self.quirk == "step raises" and self.clock[0] == 2:
            raise RuntimeError("the leg fell off")
        if self.quirk == "step exits" and self.clock[0] == 2:
            sys.exit("the window was closed")
        ended: Any = bool(self.clock[0] == 10)
        answer = (self.observation(), float(self.x[0]), ended, False, {"success": ended})
        return {
            "reward array": (answer[0], np.array([answer[1]]), *answer[2:]),
            "reward None": (answer[0], None, *answer[2:]),
            "reward text": (answer[0], "1.0", *answer[2:]),
            "many rewards": (answer[0], np.zeros(200), *answer[2:]),
            "two rewards": (answer[0], np.zeros(2), *answer[2:]),
            "terminated array": (*answer[:2], np.array([ended]), *answer[3:]),
            "terminated number": (*answer[:2], int(ended), *answer[3:]),
            "terminated None": (*answer[:2], None, *answer[3:]),
            "terminated by a count": (*answer[:2], 7, *answer[3:]),
            "two truncated": (*answer[:3], np.zeros(2, bool), answer[4]),
            "old step": (*answer[:3], {}),
            "no info": (*answer[:4], None),
            "two successes": (*answer[:4], {"success": np.ones(2, bool)}),
        }.get(self.quirk, answer)

    def observation(self) -> Any:
        x, clock = self.x, self.clock
        if self.quirk not in ("shared", "changes the action"):
            x, clock = x.copy(), clock.copy()
        if self.clock[0] == 2:
            x = {
                "another shape": x[None],
                "other numbers": np.zeros(4),
                "ragged": [[1.0], [1.0, 2.0]],
                "text": "far",
                "list": x.tolist(),
            }.get(self.quirk, x)
        if self.quirk == "missing key" and self.clock[0] == 2:
            return {"place": x}
        return {"place": x, "clock": clock} if self.is_dict else x


class Standardized(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Observations in units of fixed statistics, as the README proposes it."""

    def __init__(self, env: gymnasium.Env[Any, Any], mean: list[float], deviation: list[float]) -> None:
        super().__init__(env)
        self._mean, self._deviation = np.array(mean), np.array(deviation)

    def observation(self, observation: Any) -> Any:
        return (observation - self._mean) / self._deviation


# Unchecked: Gymnasium's own checker would raise or warn first, and only in the first steps of an environment.
gymnasium.register("Quirky-v0", f"{__name__}:Quirky", max_episode_steps=20, disable_env_checker=True)
gymnasium.register("ByClass-v0", Quirky, max_episode_steps=20)
gymnasium.register("ByFunction-v0", lambda **kwargs: Quirky(**kwargs), max_episode_steps=20)
gymnasium.register("ByArguments-v0", f"{__name__}:Quirky", max_episode_steps=20, kwargs={"is_dict": np.False_})


def quirky(quirk: str, is_dict: bool = False) -> EnvironmentConfig:
    return EnvironmentConfig(id=ID, kwargs={"quirk": quirk, "is_dict": is_dict})
