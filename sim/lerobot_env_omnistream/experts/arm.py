"""One arm under ``osc_pose_delta`` control: where it is, and smooth motions to where it should be.

Positions in metres and rotations in the world's axes, which are those of the robot's base. The hand points along its
own z and its fingers open along its own x; ``finger_yaw_rad`` is the heading of that x when the hand points down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

STEP_M, STEP_RAD = 0.05, 0.5  # what an action of 1 asks for
GAIN = 1.5  # of the distance left, how much a step asks for
ACCELERATION_PER_S = 6.0  # how fast an action may change
OPEN, CLOSED = -1.0, 1.0
NOMINAL_FINGER_YAW_RAD = np.pi / 2

Target = Callable[[], tuple[np.ndarray, Rotation]]


class Arm:
    """Reads the arm's state and turns targets into actions. ``rng`` decides the style of this episode."""

    def __init__(self, world: Any, rng: np.random.Generator):
        self.world, self.rng = world, rng
        self._site = world.robots[0].eef_site_id["right"]
        self._last = np.zeros(6)
        self.gripper = OPEN
        self.speed = rng.uniform(0.6, 1.0)
        self.hover_m = rng.uniform(0.06, 0.12)

    # ---- state ----

    @property
    def data(self) -> Any:
        return self.world.sim.data

    @property
    def position_m(self) -> np.ndarray:
        """(3,) the point between the fingertips."""
        return np.array(self.data.site_xpos[self._site])

    @property
    def rotation(self) -> Rotation:
        return Rotation.from_matrix(self.data.site_xmat[self._site].reshape(3, 3))

    @property
    def finger_yaw_rad(self) -> float:
        finger_axis = self.rotation.apply([1, 0, 0])
        return float(np.arctan2(finger_axis[1], finger_axis[0]))

    def body(self, name: str) -> tuple[np.ndarray, Rotation]:
        """Position (3,) and rotation of a body."""
        matrix_33 = self.data.get_body_xmat(name)
        return np.array(self.data.get_body_xpos(name)), Rotation.from_matrix(np.reshape(matrix_33, (3, 3)))

    def holds(self, thing: Any) -> bool:
        """Whether both fingers touch the object."""
        return bool(self.world._check_grasp(gripper=self.world.robots[0].gripper, object_geoms=thing))

    # ---- motion ----

    def hold(self) -> np.ndarray:
        """(7,) the action that comes to rest."""
        return self._smooth(np.zeros(6))

    def toward(self, position_m: np.ndarray, rotation: Rotation, speed: float | None = None) -> np.ndarray:
        """(7,) the next action on the way to a pose."""
        speed = self.speed if speed is None else speed
        linear = GAIN * (position_m - self.position_m) / STEP_M
        angular = GAIN * (rotation * self.rotation.inv()).as_rotvec() / STEP_RAD
        return self._smooth(np.concatenate([_capped(linear, speed), _capped(angular, 0.7 * speed)]))

    def go(
        self, target: Target, *, within_m: float = 0.01, within_rad: float = 0.1, limit_s: float = 6, speed=None
    ) -> Iterator[np.ndarray]:
        """Moves until the target, asked for anew at each step, is reached or the time is up."""
        for _ in range(self.steps(limit_s)):
            position_m, rotation = target()
            angle_rad = (rotation * self.rotation.inv()).magnitude()
            if np.linalg.norm(position_m - self.position_m) < within_m and angle_rad < within_rad:
                return
            yield self.toward(position_m, rotation, speed)

    def grip(self, command: float, seconds: float = 0.5) -> Iterator[np.ndarray]:
        """Opens or closes the fingers while the hand stands still."""
        self.gripper = command
        for _ in range(self.steps(seconds)):
            yield self.hold()

    def steps(self, seconds: float) -> int:
        return max(1, round(seconds * self.world.control_freq))

    def _smooth(self, wanted_6: np.ndarray) -> np.ndarray:
        change = ACCELERATION_PER_S / self.world.control_freq
        self._last = self._last + np.clip(wanted_6 - self._last, -change, change)
        return np.append(self._last, self.gripper)


def pointing_down(finger_yaw_rad: float) -> Rotation:
    """The hand straight down, its fingers opening along the given heading."""
    cos, sin = np.cos(finger_yaw_rad), np.sin(finger_yaw_rad)
    return Rotation.from_matrix(np.array([[cos, sin, 0], [sin, -cos, 0], [0, 0, -1]]))


def yaw_of(rotation: Rotation) -> float:
    """Heading of a body's x axis, rad."""
    axis = rotation.apply([1, 0, 0])
    return float(np.arctan2(axis[1], axis[0]))


def nearest(angle_rad: float, period_rad: float, to_rad: float) -> float:
    """The angle equal to ``angle_rad`` up to whole periods that lies nearest to ``to_rad``."""
    return to_rad + (angle_rad - to_rad + period_rad / 2) % period_rad - period_rad / 2


def _capped(vector: np.ndarray, limit: float) -> np.ndarray:
    norm = np.linalg.norm(vector)
    return vector if norm <= limit else vector * (limit / norm)
