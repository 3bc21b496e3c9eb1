"""The settings of an environment, as LeRobot's ``--env.type=robosuite --env.<field>=<value>`` reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from typing import Any, get_type_hints

import gymnasium as gym
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.processor import PolicyProcessorPipeline
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE

from lerobot_env_omnistream import tasks
from lerobot_env_omnistream.errors import SimError
from lerobot_env_omnistream.processor import FlatGeometryProcessorStep
from lerobot_env_omnistream.rendering import BACKENDS

RANGES: dict[str, tuple[float, float, str]] = {
    "fps": (1, 500, "Hz"),
    "episode_length": (1, 100_000, "steps"),
    "image_height_px": (16, 4096, "pixels"),
    "image_width_px": (16, 4096, "pixels"),
    "object_spread": (0, 1, "of robosuite's own range"),
    "joint_noise_rad": (0, 0.5, "rad"),
    "camera_jitter_m": (0, 0.5, "m"),
    "camera_jitter_deg": (0, 45, "degrees"),
    "stress_camera_moved_m": (0, 0.5, "m"),
    "stress_light_changed": (0, 1, "(fraction)"),
    "stress_texture_changed": (0, 1, "(fraction)"),
    "stress_distractors": (0, 8, "objects"),
    "stress_image_noise": (0, 1, "(fraction of full scale)"),
    "stress_frames_dropped": (0, 1, "(probability)"),
    "stress_action_delay_steps": (0, 50, "steps"),
    "stress_action_noise": (0, 1, "(fraction of full scale)"),
}


@EnvConfig.register_subclass("robosuite")
@dataclass
class RobosuiteEnvConfig(EnvConfig):
    """One robosuite task with its cameras, control, randomisation and stress.

    Raises:
        SimError: a value of another type or outside its range, or a task, robot, controller, camera or state key that
            does not exist; the message names the value and the valid choices.
    """

    task: str | None = "Lift"
    # Control rate, Hz: one action and one observation in each period. The name is LeRobot's.
    fps: int = 20
    # Horizon, steps: an episode without success is truncated here.
    episode_length: int = 400
    robot: str = "Panda"
    # osc_pose_delta: per arm dx dy dz (1 = 0.05 m) and a rotation vector (1 = 0.5 rad), axes of the robot's base.
    # joint_delta: per joint (1 = 0.05 rad). Both end with the gripper, -1 open, +1 close.
    controller: str = "osc_pose_delta"
    cameras: list[str] = field(default_factory=lambda: ["agentview", "robot0_eye_in_hand"])
    image_height_px: int = 128
    image_width_px: int = 128
    # Also emit depth_m.<camera>, (H, W) metres along the optical axis.
    depth: bool = False
    state_keys: list[str] = field(default_factory=lambda: ["joint_pos", "eef_pos", "eef_quat", "gripper_qpos"])
    # auto, egl or osmesa; auto takes MUJOCO_GL, else the best there is.
    renderer: str = "auto"

    # Randomisation, drawn anew at each reset.
    # Objects: 1 draws from robosuite's own range, 0 puts everything at the middle of it.
    object_spread: float = 1.0
    # Joints of the robot at the start: standard deviation.
    joint_noise_rad: float = 0.02
    # Cameras that stand in the world: each is shifted and turned by up to so much, uniformly.
    camera_jitter_m: float = 0.0
    camera_jitter_deg: float = 0.0

    # Stress, for evaluation; 0 is off.
    # Every camera that stands in the world, displaced by exactly this distance in a random direction.
    stress_camera_moved_m: float = 0.0
    # Lights: brightness by up to this fraction, and position by up to so many metres.
    stress_light_changed: float = 0.0
    # All textures but those of the task's objects: this fraction of a random pattern mixed in.
    stress_texture_changed: float = 0.0
    # Coloured shapes on the table that can be seen but not touched.
    stress_distractors: int = 0
    # Gaussian noise on every pixel, standard deviation as a fraction of 255; the same, relative, on depth.
    stress_image_noise: float = 0.0
    # Chance that a step brings no new images: those of the step before are seen again, with their poses and depth.
    stress_frames_dropped: float = 0.0
    # An action takes effect so many steps late; until the first does, the arm holds still.
    stress_action_delay_steps: int = 0
    # Noise on all motion commands that drifts over half a second, standard deviation as a fraction of full scale. An
    # expert recorded under it shows how to put mistakes right: Laskey et al., DART: Noise Injection for Robust
    # Imitation Learning, 2017.
    stress_action_noise: float = 0.0

    features: dict[str, PolicyFeature] = field(default_factory=dict)
    features_map: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_types(self)
        check_ranges(self, RANGES)
        self._check_choices()
        description = self.describe()
        for camera in self.cameras:
            if camera not in description.cameras:
                raise SimError(f"{self.task} has no camera {camera!r}; it has: {', '.join(description.cameras)}")
        self._declare_features(description)

    def describe(self) -> tasks.TaskDescription:
        """Shapes and cameras of the task."""
        return tasks.describe(self.task, self.robot, self.controller, tuple(self.state_keys))

    def _check_choices(self) -> None:
        _check_choice("controller", self.controller, tuple(tasks.CONTROLLERS))
        _check_choice("renderer", self.renderer, BACKENDS)
        for key in self.state_keys:
            _check_choice("state_keys", key, tasks.STATE_KEYS)
        if len(set(self.cameras)) < len(self.cameras):
            raise SimError(f"cameras names one twice: {', '.join(self.cameras)}")
        if not self.cameras and not self.state_keys:
            raise SimError("an environment with neither cameras nor state_keys observes nothing; name one of either")
        tasks.check_task(self.task)
        tasks.check_robot(self.robot)

    def _declare_features(self, description: tasks.TaskDescription) -> None:
        image_shape = (self.image_height_px, self.image_width_px, 3)
        self.features = {ACTION: PolicyFeature(FeatureType.ACTION, (description.action_size,))}
        self.features_map = {ACTION: ACTION}
        if self.state_keys:
            self.features["agent_pos"] = PolicyFeature(FeatureType.STATE, (description.state_size,))
            self.features_map["agent_pos"] = OBS_STATE
        for camera in self.cameras:
            self.features[f"pixels/{camera}"] = PolicyFeature(FeatureType.VISUAL, image_shape)
            self.features_map[f"pixels/{camera}"] = f"{OBS_IMAGES}.{camera}"

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        return {"config": self}

    def get_env_processors(self) -> tuple[PolicyProcessorPipeline, PolicyProcessorPipeline]:
        """What LeRobot puts between environment and policy: geometry as a recording holds it; actions as they are."""
        return PolicyProcessorPipeline(steps=[FlatGeometryProcessorStep()]), PolicyProcessorPipeline(steps=[])

    def settings(self) -> dict[str, Any]:
        """Every field that the user sets, as plain values."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("features", "features_map")}

    def create_envs(self, n_envs: int, use_async_envs: bool = False) -> dict[str, dict[int, gym.vector.VectorEnv]]:
        """``{"robosuite": {0: vector of n_envs environments}}``; each builds its world at its first reset."""
        return {self.type: {0: vector_of(self.make_env, n_envs, use_async_envs)}}

    # ---- what recording and trials ask of any environment ----

    def make_env(self) -> gym.Env:
        from lerobot_env_omnistream.env import RobosuiteEnv

        return RobosuiteEnv(self)

    def single_tasks(self) -> list[RobosuiteEnvConfig]:
        return [self]

    def without_images(self) -> RobosuiteEnvConfig:
        return replace(self, cameras=[])

    def require_expert(self) -> None:
        """Raises SimError where no expert could be recorded."""
        from lerobot_env_omnistream.experts import SCRIPTS

        if self.task not in SCRIPTS:
            raise SimError(f"there is no expert for {self.task!r}; there are: {', '.join(SCRIPTS)}")
        if not self.cameras or not self.state_keys:
            raise SimError("a recording needs at least one camera and one state key")
        if self.depth:
            raise SimError("depth is not recorded: LeRobot's datasets have no such feature; leave depth at false")


def vector_of(make_one: Callable[[], gym.Env], n_envs: int, use_async_envs: bool) -> gym.vector.VectorEnv:
    """``n_envs`` environments that step together, each in a process of its own if so asked."""
    from lerobot.envs.utils import _LazyAsyncVectorEnv, freeze_after_episode_end

    if use_async_envs and n_envs > 1:
        sample = make_one()
        spaces = (sample.observation_space, sample.action_space, sample.metadata)
        return _LazyAsyncVectorEnv([make_one] * n_envs, *spaces)
    frozen = [freeze_after_episode_end(make_one) for _ in range(n_envs)]
    return gym.vector.SyncVectorEnv(frozen, autoreset_mode=gym.vector.AutoresetMode.NEXT_STEP)


# What a field of each type takes, and in words.
TYPES: dict[Any, tuple[Any, str]] = {
    bool: (bool, "true or false"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "text"),
    str | None: (str | None, "text"),
    list[str]: (list | tuple, 'a list of names, as ["first", "second"],'),
}


def check_types(config: EnvConfig) -> None:
    """Raises SimError for the first field that the user sets to a value of another type than its own."""
    hints = get_type_hints(type(config))
    for name, value in config.settings().items():
        types, words = TYPES[hints[name]]
        fits = isinstance(value, types) and isinstance(value, bool) == (hints[name] is bool)
        if not fits or (isinstance(value, list | tuple) and not all(isinstance(entry, str) for entry in value)):
            raise SimError(f"{name} is {value!r}; {words} is needed")


def check_ranges(config: EnvConfig, ranges: dict[str, tuple[float, float, str]]) -> None:
    """Raises SimError for the first field that lies outside its (low, high, unit)."""
    for name, (low, high, unit) in ranges.items():
        value = getattr(config, name)
        if not low <= value <= high:
            raise SimError(f"{name} is {value}; it must lie in {low:g} ... {high:g} {unit}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise SimError(f"{name} is {value!r}; choose from {', '.join(choices)}")
