"""Experts that grasp from above: Lift, Stack, PickPlaceCan, NutAssemblySquare."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from lerobot_env_omnistream.experts.arm import (
    CLOSED,
    NOMINAL_FINGER_YAW_RAD,
    OPEN,
    Arm,
    nearest,
    pointing_down,
    yaw_of,
)

ATTEMPTS = 3
UP = np.array([0.0, 0.0, 1.0])
Grasp = Callable[[], tuple[np.ndarray, float]]  # where to close the fingers (3,), and their heading


def lift(arm: Arm) -> Iterator[np.ndarray]:
    cube = arm.world.cube
    yield from _pick(arm, cube, _cube_grasp(arm, cube), raise_m=arm.rng.uniform(0.08, 0.15))


def stack(arm: Arm) -> Iterator[np.ndarray]:
    upper, lower = arm.world.cubeA, arm.world.cubeB
    gap_m = float(upper.size[2] + lower.size[2])
    hover_m = 0.03 + 0.5 * arm.hover_m
    for _ in range(ATTEMPTS):
        yield from _pick(arm, upper, _cube_grasp(arm, upper), raise_m=0.12)

        def above(height_m: float, rotation: Rotation = arm.rotation) -> tuple[np.ndarray, Rotation]:
            offset_m = arm.position_m - arm.body(upper.root_body)[0]
            return arm.body(lower.root_body)[0] + offset_m + (gap_m + height_m) * UP, rotation

        yield from arm.go(lambda at=above: at(hover_m), within_m=0.008)
        yield from arm.go(lambda at=above: at(0.002), within_m=0.004, limit_s=4, speed=0.5 * arm.speed)
        yield from arm.grip(OPEN, 0.4)
        yield from _rise(arm, 0.1, limit_s=2)
        if arm.world._check_success():
            return


def place_can(arm: Arm) -> Iterator[np.ndarray]:
    world = arm.world
    can = world.objects[world.object_id]
    # The near corner of the bin: its middle is at the end of the arm's reach.
    shift_m = arm.rng.uniform([-0.065, -0.085, 0.1], [-0.04, -0.055, 0.14])
    drop_m = world.target_bin_placements[world.object_id] + shift_m
    yaw_rad = NOMINAL_FINGER_YAW_RAD + arm.rng.uniform(-0.4, 0.4)
    down = pointing_down(NOMINAL_FINGER_YAW_RAD)
    for _ in range(ATTEMPTS):
        yield from _pick(arm, can, lambda: (arm.body(can.root_body)[0], yaw_rad), raise_m=0.2)
        over_m = np.array([*drop_m[:2], arm.position_m[2]])
        yield from arm.go(lambda place=over_m: (place, down), within_m=0.03, within_rad=0.3)
        yield from arm.go(lambda: (drop_m, down), within_m=0.015, within_rad=0.3, limit_s=4)
        yield from arm.grip(OPEN, 0.5)
        yield from _rise(arm, 0.12, limit_s=2)
        if world._check_success():
            return


def square_nut(arm: Arm) -> Iterator[np.ndarray]:
    world = arm.world
    nut = world.nuts[world.nut_id]
    for _ in range(ATTEMPTS):
        nut_yaw_rad = yaw_of(arm.body(nut.root_body)[1])
        grasp_yaw_rad, turn_rad = _wrist_plan(nut_yaw_rad)
        yield from _pick(arm, nut, _handle_grasp(arm, nut, grasp_yaw_rad), raise_m=0.16)
        yield from _thread(arm, nut, nut_yaw_rad + turn_rad)
        yield from arm.grip(OPEN, 0.4)
        yield from _rise(arm, 0.1, limit_s=2)
        if world._check_success():
            return


# ---- parts ----


def _pick(arm: Arm, thing: Any, grasp: Grasp, raise_m: float) -> Iterator[np.ndarray]:
    """Over the object by a detour of this episode's own, down, close, up; again if the fingers come up empty.

    A hand that holds it already, when this expert takes over, only goes as high as it would have from the table.
    """
    if arm.holds(thing):
        arm.gripper = CLOSED
        yield from _rise(arm, max(0.0, _floor_m(arm) + raise_m - arm.position_m[2]))
        if arm.holds(thing):
            return
    for _ in range(ATTEMPTS):
        yield from arm.grip(OPEN, 0.1)
        detour_m = np.array([*arm.rng.uniform(-0.05, 0.05, 2), arm.rng.uniform(0.03, 0.1)])

        def over(offset_m: np.ndarray) -> tuple[np.ndarray, Rotation]:
            place_m, yaw_rad = grasp()
            return place_m + arm.hover_m * UP + offset_m, pointing_down(yaw_rad)

        yield from arm.go(lambda d=detour_m: over(d), within_m=0.04, within_rad=0.5)
        yield from arm.go(lambda: over(np.zeros(3)), within_m=0.015)
        yield from arm.go(lambda: over(-arm.hover_m * UP), within_m=0.006, limit_s=3, speed=0.7 * arm.speed)
        yield from arm.grip(CLOSED, arm.rng.uniform(0.4, 0.6))
        yield from _rise(arm, raise_m)
        if arm.holds(thing):
            return


def _floor_m(arm: Arm) -> float:
    """Height of what things stand on."""
    world = arm.world
    return float((world.bin1_pos if hasattr(world, "bin1_pos") else world.table_offset)[2])


def _rise(arm: Arm, height_m: float, limit_s: float = 6) -> Iterator[np.ndarray]:
    """Straight up, the hand as it is turned."""
    goal_m, rotation = arm.position_m + height_m * UP, arm.rotation
    yield from arm.go(lambda: (goal_m, rotation), within_m=0.02, limit_s=limit_s)


def _cube_grasp(arm: Arm, cube: Any) -> Grasp:
    """Fingers on two opposite faces: those that turn the wrist least."""

    def grasp() -> tuple[np.ndarray, float]:
        place_m, rotation = arm.body(cube.root_body)
        return place_m, nearest(yaw_of(rotation), np.pi / 2, NOMINAL_FINGER_YAW_RAD)

    return grasp


def _handle_grasp(arm: Arm, nut: Any, yaw_rad: float) -> Grasp:
    site = arm.world.sim.model.site_name2id(nut.important_sites["handle"])
    return lambda: (np.array(arm.data.site_xpos[site]), yaw_rad)


def _wrist_plan(nut_yaw_rad: float) -> tuple[float, float]:
    """Heading of the fingers at the grasp, and the turn that squares the nut: those that strain the wrist least.

    The handle must not end up pointing away from the robot: the hand would have to reach beyond the peg.
    """
    grasps = [nearest(nut_yaw_rad + np.pi / 2 + flip, 2 * np.pi, NOMINAL_FINGER_YAW_RAD) for flip in (0, np.pi)]
    base_turn_rad = nearest(-nut_yaw_rad, np.pi / 2, 0)
    turns = [base_turn_rad + quarter * np.pi / 2 for quarter in range(-2, 3)]
    plans = [(grasp, turn) for grasp in grasps for turn in turns if np.cos(nut_yaw_rad + turn) < 0.5]

    def strain(plan: tuple[float, float]) -> float:
        start_rad = plan[0] - NOMINAL_FINGER_YAW_RAD
        return max(abs(start_rad), abs(start_rad + plan[1])) + 0.2 * abs(plan[1])

    return min(plans, key=strain)


def _thread(arm: Arm, nut: Any, nut_yaw_rad: float) -> Iterator[np.ndarray]:
    """Carries the held nut over the square peg, squared to it, and down."""
    peg_m = arm.body("peg1")[0]
    table_m = arm.world.table_offset[2]

    def at(nut_height_m: float) -> tuple[np.ndarray, Rotation]:
        place_m, rotation = arm.body(nut.root_body)
        error_rad = nearest(nut_yaw_rad - yaw_of(rotation), 2 * np.pi, 0)
        offset_m = Rotation.from_rotvec(error_rad * UP).apply(arm.position_m - place_m)
        goal_m = np.array([*peg_m[:2], table_m + nut_height_m])
        return goal_m + offset_m, pointing_down(arm.finger_yaw_rad + error_rad)

    yield from arm.go(lambda: at(0.17), within_m=0.02, within_rad=0.15)
    yield from arm.go(lambda: at(0.14), within_m=0.003, within_rad=0.04, limit_s=4, speed=0.6)
    yield from arm.go(lambda: at(0.02), within_m=0.006, within_rad=0.2, limit_s=4, speed=0.4 * arm.speed)
