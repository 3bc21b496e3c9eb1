"""Scripted experts over the true state: one state machine a task, smooth, and varied from seed to seed.

A script is a generator: it moves the arm by yielding one action per control step and reads the true state as it goes,
so every target follows what the objects really do. It ends when it believes the task done; the arm then holds still.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from lerobot_env_omnistream.errors import SimError
from lerobot_env_omnistream.experts import door, pick
from lerobot_env_omnistream.experts.arm import Arm

SCRIPTS: dict[str, Callable[[Arm], Iterator[np.ndarray]]] = {
    "Lift": pick.lift,
    "Stack": pick.stack,
    "PickPlaceCan": pick.place_can,
    "NutAssemblySquare": pick.square_nut,
    "Door": door.open_door,
}


class Expert:
    """Solves one episode of ``task``; make a new one after each reset of the world.

    Args:
        world: the robosuite environment, one arm, controller ``osc_pose_delta``.
        seed: of speed, heights and ways of approach.

    Raises:
        SimError: there is no expert for the task, or the world is controlled otherwise.
    """

    def __init__(self, task: str, world: Any, seed: int):
        if task not in SCRIPTS:
            raise SimError(f"there is no expert for {task!r}; there are: {', '.join(SCRIPTS)}")
        if len(world.robots) != 1 or world.action_dim != 7:
            raise SimError(f"experts steer one arm by osc_pose_delta (7 numbers); this world takes {world.action_dim}")
        self._arm = Arm(world, np.random.default_rng([seed, 7]))
        self._script = SCRIPTS[task](self._arm)

    def act(self) -> np.ndarray:
        """(7,) float32: the next action, from the world as it is now."""
        action = next(self._script, None)
        return (self._arm.hold() if action is None else action).astype(np.float32)
