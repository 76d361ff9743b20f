"""Key-to-Door, a game of memory: what is done in the first room decides what the last room's door is worth.

Importing this module registers `KeyToDoor-v0`, so settings name it `pipeline.key_to_door:KeyToDoor-v0`. It is the game
alone: how it is collected, learnt and judged is said elsewhere.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete, MultiDiscrete
from numpy.typing import NDArray

from pipeline.errors import EnvironmentSetupError

SIDE = 3
"""Cells along a wall of a room; cells count row by row, 0 at the top left."""

CELLS = SIDE * SIDE

UNSEEN = CELLS
"""What the observation holds in the place of a cell that is not to be seen."""

PHASE_STEPS = (6, 3, 6)
"""Environment steps in the room with the key, in the empty room, in the room with the door."""

KEY_ROOM, EMPTY_ROOM, DOOR_ROOM = range(3)

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""Rows and columns that the actions go: up, right, down, left."""

CELL_PIXELS = 32

_FLOORS = np.array([[246, 240, 222], [232, 234, 238], [224, 238, 226]], np.uint8)
_LINE, _PLAYER, _KEY, _DOOR = np.array([[176, 176, 176], [63, 111, 216], [232, 178, 28], [122, 74, 38]], np.uint8)


class KeyToDoor(gymnasium.Env[NDArray[np.int64], int]):  # type: ignore[misc]
    """Three rooms, one after the other by the clock: take the key in the first, walk to the door in the last.

    Every room is entered on a random cell of its bottom row; key and door lie on random cells of the top row. Whoever
    walks onto the key's cell at any step has the key, and it is no longer shown. Walking onto the door's cell ends the
    episode: with the key the reward is 1, without it 0; every other reward is 0. Without the key the game ends there
    too, because one that went on would tell the player that it has no key. `info["success"]` tells after each step
    whether the door was reached with the key.

    Observation: `MultiDiscrete([9, 10, 10, 3])`: own cell, key's cell, door's cell (9 where there is none to be seen),
    room. Never whether the player has the key, and never the clock. All random cells are drawn at the reset and each
    room is entered anew, so from the second room on nothing that is observed depends on what was done in the first.

    Actions: `Discrete(4)`: up, right, down, left; a wall keeps the player where it is.

    Args:
        render_mode: `rgb_array` for pictures of (96, 96, 3) uint8, None for none.

    Raises:
        EnvironmentSetupError: Another `render_mode`.

    Source: "Decision Transformer" (arXiv 2106.01345), section 5.4, which took the game from "Counterfactual Credit
        Assignment in Model-Free Reinforcement Learning" (arXiv 2011.09464). Neither released it, and sizes and clocks
        were not told: these are our own, small enough for two cores. Evenly random actions reach the key in 17.27 % of
        episodes and the door as often, so they succeed in 2.98 % (the first paper: 3.1 %).
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 (Gymnasium's own name)

    _cell: int

    def __init__(self, render_mode: str | None = None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise EnvironmentSetupError(f"render_mode is {render_mode!r}; expected 'rgb_array' or None.")
        self.render_mode = render_mode
        self.observation_space = MultiDiscrete([CELLS, CELLS + 1, CELLS + 1, len(PHASE_STEPS)])
        self.action_space = Discrete(len(MOVES))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.int64], dict[str, Any]]:
        """Starts an episode; returns its first observation (4,) and no facts.

        Args:
            seed: Of the cells; None goes on with the generator that is there.
            options: Gymnasium's; nothing is read from them.
        """
        super().reset(seed=seed, options=options)
        # All at once: drawn later, cells could depend on how many draws came before.
        self._key, self._door, *columns = self.np_random.integers(SIDE, size=2 + len(PHASE_STEPS)).tolist()
        self._entrances = [CELLS - SIDE + column for column in columns]
        self._has_key = False
        self._enter(KEY_ROOM)
        return self._observation(), {}

    def step(self, action: int) -> tuple[NDArray[np.int64], float, bool, bool, dict[str, Any]]:
        """Moves the player; returns observation (4,), reward, terminated, truncated, and `success` in a dictionary."""
        assert self.action_space.contains(action)
        self._cell = _neighbour(self._cell, action)
        self._has_key |= self._room == KEY_ROOM and self._cell == self._key
        at_door = self._room == DOOR_ROOM and self._cell == self._door
        success = at_door and self._has_key
        time_is_up = self._pass_time()
        # The clock's end is terminated too: it is a rule of the game, as the other rooms' clocks are, and not a limit
        # set from outside, behind which the game would go on and have a value.
        return self._observation(), float(success), at_door or time_is_up, False, {"success": success}

    def render(self) -> NDArray[np.uint8] | None:
        """Returns a picture (96, 96, 3) of the room, None without a render mode.

        It is for people: a player who has the key is drawn with it, which the observation does not tell.
        """
        if self.render_mode is None:
            return None
        picture = np.empty((SIDE * CELL_PIXELS, SIDE * CELL_PIXELS, 3), np.uint8)
        picture[:] = _FLOORS[self._room]
        picture[::CELL_PIXELS] = picture[:, ::CELL_PIXELS] = _LINE
        _, key, door, _ = self._observation().tolist()
        for cell, margin, colour in ((door, 4, _DOOR), (self._cell, 8, _PLAYER), (key, 12, _KEY)):
            _paint(picture, cell, margin, colour)
        if self._has_key:
            _paint(picture, self._cell, 12, _KEY)
        return picture

    def _enter(self, room: int) -> None:
        self._room = room
        self._cell = self._entrances[room]
        self._steps_left = PHASE_STEPS[room]

    def _pass_time(self) -> bool:
        """Lets one step of the clock pass, which may open the next room; returns whether the last room's ran out."""
        self._steps_left -= 1
        if self._steps_left > 0:
            return False
        if self._room == DOOR_ROOM:
            return True
        self._enter(self._room + 1)
        return False

    def _observation(self) -> NDArray[np.int64]:
        key = self._key if self._room == KEY_ROOM and not self._has_key else UNSEEN
        door = self._door if self._room == DOOR_ROOM else UNSEEN
        return np.array([self._cell, key, door, self._room])


def _neighbour(cell: int, action: int) -> int:
    (row, column), (down, right) = divmod(cell, SIDE), MOVES[action]
    return min(max(row + down, 0), SIDE - 1) * SIDE + min(max(column + right, 0), SIDE - 1)


def _paint(picture: NDArray[np.uint8], cell: int, margin: int, colour: NDArray[np.uint8]) -> None:
    """Paints a square into a cell, `margin` pixels from its edges; nothing for `UNSEEN`."""
    if cell == UNSEEN:
        return
    top, left = (CELL_PIXELS * place for place in divmod(cell, SIDE))
    picture[top + margin : top + CELL_PIXELS - margin, left + margin : left + CELL_PIXELS - margin] = colour


# The pipeline collects only where there is a limit. This one is a step more than the clock's, so that it never ends an
# episode: at the clock's own last step Gymnasium would call the ending truncated as well.
gymnasium.register("KeyToDoor-v0", "pipeline.key_to_door:KeyToDoor", max_episode_steps=sum(PHASE_STEPS) + 1)
