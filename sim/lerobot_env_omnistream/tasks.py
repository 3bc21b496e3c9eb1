"""What robosuite offers and how its environments are built: tasks, their texts, controllers, shapes."""

from __future__ import annotations

import logging
import os
import re
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from lerobot_env_omnistream.errors import SimError
from lerobot_env_omnistream.rendering import choose_backend

# The tasks for which there are experts, with a text a person would say; any other gets its name in words.
TASK_TEXTS = {
    "Lift": "lift the red cube",
    "Stack": "stack the red cube on the green cube",
    "PickPlaceCan": "put the can into its bin",
    "NutAssemblySquare": "put the square nut on the square peg",
    "Door": "open the door",
}
# What the user calls a controller, and robosuite's name of the arm's part controller.
CONTROLLERS = {"osc_pose_delta": "OSC_POSE", "joint_delta": "JOINT_POSITION"}
STATE_KEYS = ("joint_pos", "joint_vel", "eef_pos", "eef_quat", "gripper_qpos", "gripper_qvel")
# Everything that robosuite draws while it builds a model (sizes of objects) is drawn from this seed, so that two
# environments of one task are alike; what varies from episode to episode is drawn at the reset.
BUILD_SEED = 0


@dataclass(frozen=True, kw_only=True)
class TaskDescription:
    """Shapes and names of one task with one robot and controller."""

    action_size: int
    state_size: int
    cameras: tuple[str, ...]
    movable_cameras: tuple[str, ...]


def robosuite_module() -> Any:
    """robosuite, imported late and quietly: the import takes seconds, logs, and would choose a renderer by itself."""
    if not os.environ.get("MUJOCO_GL"):
        try:
            choose_backend()
        except SimError:  # physics alone needs no renderer; who asks for images gets the error then
            pass
    disabled_before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import robosuite
    finally:
        logging.disable(disabled_before)
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
    return robosuite


def known_tasks() -> list[str]:
    """The names of all robosuite environments."""
    return sorted(robosuite_module().ALL_ENVIRONMENTS)


def task_text(task: str) -> str:
    """What the robot is asked to do, in words."""
    return TASK_TEXTS.get(task) or re.sub(r"(?<!^)(?=[A-Z])", " ", task).lower()


def check_task(task: str) -> None:
    if task not in known_tasks():
        raise SimError(f"unknown robosuite task {task!r}; known: {', '.join(known_tasks())}")


@contextmanager
def global_seed(seed: int):
    """Seeds NumPy's global generator, from which robosuite draws, and puts the caller's state back afterwards."""
    state = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(state)


def make_world(task: str, robot: str, controller: str, rate_hz: int, joint_noise_rad: float = 0.02) -> Any:
    """A robosuite environment without cameras or screen; its horizon never ends an episode."""
    check_task(task)
    robosuite = robosuite_module()
    check_robot(robot)
    arguments = {"gripper_types": None} if task == "TwoArmPegInHole" else {}
    with global_seed(BUILD_SEED):
        return robosuite.make(
            task,
            robots=[robot, robot] if task.startswith("TwoArm") else robot,
            controller_configs=_controller(robot, controller),
            initialization_noise={"type": "gaussian", "magnitude": joint_noise_rad},
            control_freq=rate_hz,
            has_renderer=False,
            has_offscreen_renderer=False,
            use_camera_obs=False,
            renderer="mujoco",
            ignore_done=True,
            hard_reset=False,
            **arguments,
        )


def check_robot(robot: str) -> None:
    known = sorted(robosuite_module().ALL_ROBOTS)
    if robot not in known:
        raise SimError(f"unknown robot {robot!r}; known: {', '.join(known)}")


def _controller(robot: str, controller: str) -> dict:
    """The robot's own composite controller with the wanted controller in each arm."""
    from robosuite.controllers import load_composite_controller_config, load_part_controller_config

    config = load_composite_controller_config(robot=robot)
    for part in (part for part in ("right", "left") if part in config["body_parts"]):
        arm = config["body_parts"][part]
        if arm["type"] != CONTROLLERS[controller]:
            new = load_part_controller_config(default_controller=CONTROLLERS[controller])
            config["body_parts"][part] = new | {"gripper": arm.get("gripper", {"type": "GRIP"})}
    return config


@lru_cache
def describe(task: str, robot: str, controller: str, state_keys: tuple[str, ...]) -> TaskDescription:
    """Shapes and cameras, from a world built for the purpose (about a second, once per process)."""
    world = make_world(task, robot, controller, rate_hz=20)
    try:
        cameras = tuple(world.sim.model.camera_names)
        fixed = tuple(name for name in cameras if world.sim.model.cam_bodyid[world.sim.model.camera_name2id(name)] == 0)
        state = read_state(world._get_observations(force_update=True), state_keys, len(world.robots))
        return TaskDescription(
            action_size=world.action_dim, state_size=state.size, cameras=cameras, movable_cameras=fixed
        )
    finally:
        world.close()


def read_state(observations: dict[str, np.ndarray], keys: tuple[str, ...], robots: int = 1) -> np.ndarray:
    """(S,) float32: the named proprioception of every robot and arm, robot by robot in the order of ``keys``.

    Joints in rad and rad/s, positions in metres in the world, quaternions xyzw, fingers in metres.
    """
    parts = []
    for robot in range(robots):
        for key in keys:
            pattern = re.compile(rf"robot{robot}_((right|left)_)?{key}")
            parts += [np.ravel(value) for name, value in observations.items() if pattern.fullmatch(name)]
    return np.concatenate(parts).astype(np.float32) if parts else np.zeros(0, np.float32)
