"""The expert of Door: from above, one finger before and one behind the handle; down, to turn the latch; then pull."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.spatial.transform import Rotation

from lerobot_env_omnistream.experts.arm import CLOSED, NOMINAL_FINGER_YAW_RAD, OPEN, Arm, nearest, pointing_down, yaw_of

ATTEMPTS = 3
LATCH_TURN_RAD = 1.1
PULL_AHEAD_RAD = 0.25


def open_door(arm: Arm) -> Iterator[np.ndarray]:
    for _ in range(ATTEMPTS):
        yield from _grasp_handle(arm)
        yield from _turn_latch(arm)
        yield from _pull(arm)
        if arm.world._check_success():
            return
        yield from arm.grip(OPEN, 0.4)


def _handle(arm: Arm) -> tuple[np.ndarray, Rotation]:
    """Position (3,) of the handle's end; rotation of a hand above it whose fingers close across the handle."""
    bar_yaw_rad = yaw_of(arm.body(arm.world.door.door_body)[1])
    across_rad = nearest(bar_yaw_rad + np.pi / 2, np.pi, NOMINAL_FINGER_YAW_RAD)
    return np.array(arm.world._handle_xpos), pointing_down(across_rad)


def _grasp_handle(arm: Arm) -> Iterator[np.ndarray]:
    side_m = np.array([*arm.rng.uniform(-0.03, 0.03, 2), 0.05 + arm.hover_m])

    def over(offset_m: np.ndarray) -> tuple[np.ndarray, Rotation]:
        place_m, rotation = _handle(arm)
        return place_m + offset_m, rotation

    yield from arm.grip(OPEN, 0.1)
    yield from arm.go(lambda: over(side_m), within_m=0.04, within_rad=0.4)
    yield from arm.go(lambda: over(np.array([0, 0, 0.06])), within_m=0.015)
    yield from arm.go(lambda: over(np.zeros(3)), within_m=0.008, limit_s=3, speed=0.7 * arm.speed)
    yield from arm.grip(CLOSED, 0.5)


def _turn_latch(arm: Arm) -> Iterator[np.ndarray]:
    """Presses the handle's end down along its arc until the latch is free."""
    world = arm.world
    for _ in range(arm.steps(4)):
        if abs(world.sim.data.qpos[world.handle_qpos_addr]) > LATCH_TURN_RAD:
            return
        pivot_m = arm.body(world.door.latch_body)[0]
        hand_m = arm.position_m
        lever_m = (hand_m - pivot_m) * [1, 1, 0]
        inward_m = -0.02 * lever_m / max(np.linalg.norm(lever_m), 1e-3)
        yield arm.toward(hand_m + inward_m - np.array([0, 0, 0.05]), _handle(arm)[1])


def _pull(arm: Arm) -> Iterator[np.ndarray]:
    """Along the circle about the hinge, a little ahead of the door."""
    model, data = arm.world.sim.model, arm.data
    hinge = model.joint_name2id(arm.world.door.joints[0])
    height_m = arm.position_m[2]
    for _ in range(arm.steps(6)):
        if arm.world._check_success():
            return
        anchor_m, axis = np.array(data.xanchor[hinge]), np.array(data.xaxis[hinge])
        goal_m = anchor_m + Rotation.from_rotvec(PULL_AHEAD_RAD * axis).apply(arm.position_m - anchor_m)
        goal_m[2] = height_m
        yield arm.toward(goal_m, _handle(arm)[1])
