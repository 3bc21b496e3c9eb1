"""The expert of Door: one finger before and one behind the handle, down along its arc until the latch is free, pull."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy.spatial.transform import Rotation

from lerobot_env_omnistream.experts.arm import CLOSED, NOMINAL_FINGER_YAW_RAD, OPEN, Arm, nearest, pointing_down, yaw_of

ATTEMPTS = 3
UP = np.array([0.0, 0.0, 1.0])
# The latch leaves the frame at about 1.4 rad; its joint ends at 1.57.
LATCH_FREE_RAD = 1.45
LEAD_RAD = 0.4  # how far ahead of itself the hand aims on the arcs of latch and door
FOLLOW = 0.7  # how much of the handle's turn the hand takes part in
TILT_RAD = 0.55  # of the hand away from the door, which its palm would touch


def open_door(arm: Arm) -> Iterator[np.ndarray]:
    tilt_rad = TILT_RAD + arm.rng.uniform(-0.08, 0.08)
    hinge, latch = arm.world.door.joints[:2]

    def latch_is_free() -> bool:
        return abs(arm.data.get_joint_qpos(latch)) > LATCH_FREE_RAD

    for _ in range(ATTEMPTS):
        yield from _grasp_handle(arm, tilt_rad)
        handle_rotation, hand_rotation = _latch_rotation(arm), arm.rotation

        def following(before: Rotation = handle_rotation, hand: Rotation = hand_rotation) -> Rotation:
            turn = (_latch_rotation(arm) * before.inv()).as_rotvec()
            return Rotation.from_rotvec(FOLLOW * turn) * hand

        yield from _arc(arm, latch, following, until=latch_is_free, down=True)
        yield from _arc(arm, hinge, following, until=arm.world._check_success, down=False)
        if arm.world._check_success():
            return
        yield from arm.grip(OPEN, 0.4)


def _grasp_handle(arm: Arm, tilt_rad: float) -> Iterator[np.ndarray]:
    along_m, side_m = arm.rng.uniform(0.09, 0.14), arm.rng.uniform(-0.03, 0.03)

    def before(distance_m: float, aside_m: float = 0) -> tuple[np.ndarray, Rotation]:
        rotation = _grasp_rotation(arm, tilt_rad)
        approach, bar = rotation.apply([0, 0, 1]), rotation.apply([0, 1, 0])
        return np.array(arm.world._handle_xpos) - distance_m * approach + aside_m * bar, rotation

    yield from arm.grip(OPEN, 0.1)
    yield from arm.go(lambda: before(along_m + 0.03, side_m), within_m=0.04, within_rad=0.4)
    yield from arm.go(lambda: before(along_m), within_m=0.02, limit_s=3)
    yield from arm.go(lambda: before(0), within_m=0.01, limit_s=3, speed=0.7 * arm.speed)
    yield from arm.grip(CLOSED, 0.5)


def _grasp_rotation(arm: Arm, tilt_rad: float) -> Rotation:
    """A hand above the handle, its fingers closing across the bar, tilted away from the door."""
    door_rotation = arm.body(arm.world.door.door_body)[1]
    across_rad = nearest(yaw_of(door_rotation) + np.pi / 2, np.pi, NOMINAL_FINGER_YAW_RAD)
    outward = door_rotation.apply([0, -1, 0])
    return Rotation.from_rotvec(tilt_rad * np.cross(UP, outward)) * pointing_down(across_rad)


def _latch_rotation(arm: Arm) -> Rotation:
    return arm.body(arm.world.door.latch_body)[1]


def _arc(
    arm: Arm,
    joint: str,
    rotation: Callable[[], Rotation],
    *,
    until: Callable[[], bool],
    down: bool,
    limit_s: float = 4,
) -> Iterator[np.ndarray]:
    """Moves the hand about a joint's axis, ahead of itself, until a condition holds: downward, or the joint's way."""
    index = arm.world.sim.model.joint_name2id(joint)
    for _ in range(arm.steps(limit_s)):
        if until():
            return
        anchor_m, axis = np.array(arm.data.xanchor[index]), np.array(arm.data.xaxis[index])
        lever_m = arm.position_m - anchor_m
        if down and np.cross(axis, lever_m)[2] > 0:
            axis = -axis
        yield arm.toward(anchor_m + Rotation.from_rotvec(LEAD_RAD * axis).apply(lever_m), rotation())
