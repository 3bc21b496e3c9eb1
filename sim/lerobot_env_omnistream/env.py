"""One robosuite task as a Gymnasium environment with LeRobot's observation keys."""

from __future__ import annotations

import random
from collections import deque
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from lerobot_env_omnistream import geometry, tasks
from lerobot_env_omnistream.errors import SimError
from lerobot_env_omnistream.experts import Expert
from lerobot_env_omnistream.rendering import CameraRenderer
from lerobot_env_omnistream.stress import ActionNoise, Disturbances, SensorFaults

if TYPE_CHECKING:
    from lerobot_env_omnistream.config import RobosuiteEnvConfig


class RobosuiteEnv(gym.Env):
    """Observations, for each camera C of H x W pixels and a state of S numbers:

    - ``pixels``: {C: (H, W, 3) uint8}, RGB, upright
    - ``agent_pos``: (S,) float32, the proprioception named by ``state_keys``
    - ``intrinsics.C``: (3, 3) float32, pixels
    - ``world_from_camera.C``: (4, 4) float32, metres, OpenCV axes (x right, y down, z forward)
    - ``depth_m.C``: (H, W) float32, metres along the optical axis; only with ``depth=True``

    An episode terminates on success and is truncated after ``episode_length`` steps; ``info["is_success"]`` says which.
    The world is built at the first reset, in the process that uses it. The same seed gives the same episode, for tasks
    other than NutAssemblySingle and PickPlaceSingle also in another process (robosuite picks their object from a set).
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}
    render_mode = "rgb_array"

    def __init__(self, config: RobosuiteEnvConfig):
        self.config = config
        self.task = config.task
        self.task_description = tasks.task_text(config.task)
        self.metadata = {**self.metadata, "render_fps": config.fps}
        self._max_episode_steps = config.episode_length
        self._description = config.describe()
        self.observation_space = _observation_space(config, self._description.state_size)
        self.action_space = spaces.Box(-1.0, 1.0, (self._description.action_size,), np.float32)
        self._world: Any = None
        self._renderer: CameraRenderer | None = None
        self._steps: int | None = None

    # ---- Gymnasium ----

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict[str, Any]]:
        super().reset(seed=seed)
        self._build()
        episode_seed = int(self.np_random.integers(2**31))
        self._reset_world(episode_seed)
        self._disturbances.apply(np.random.default_rng([episode_seed, 1]), self._renderer)
        self._world.sim.forward()
        self._faults = SensorFaults(self.config, np.random.default_rng([episode_seed, 2]))
        delay_steps = self.config.stress_action_delay_steps
        self._shaking = ActionNoise(self.config, len(self._world.robots), np.random.default_rng([episode_seed, 3]))
        self._pending = deque([np.zeros(self.action_space.shape)] * delay_steps)
        self._steps = 0
        return self._observe(self._world._get_observations(force_update=True)), self._info(False)

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict[str, Any]]:
        if self._steps is None:
            raise gym.error.ResetNeeded("call reset before step")
        self._pending.append(self._checked(action))
        observations, reward, _, _ = self._world.step(self._shaking.disturb(self._pending.popleft()))
        self._steps += 1
        success = bool(self._world._check_success())
        truncated = not success and self._steps >= self._max_episode_steps
        return self._observe(observations), float(reward), success, truncated, self._info(success)

    def render(self) -> np.ndarray:
        """(H, W, 3) uint8: the first camera's view, undisturbed by sensor faults."""
        if self._steps is None:
            raise gym.error.ResetNeeded("call reset before render")
        return self._ensure_renderer().rgb(self._data, self._camera_ids[self._shown_camera])

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
        if self._world is not None:
            self._world.close()
        self._renderer = self._world = self._steps = None

    # ---- the truth, for experts and tests ----

    @property
    def world(self) -> Any:
        """The robosuite environment, once reset has built it."""
        return self._world

    def make_expert(self, seed: int) -> Expert:
        """An expert for the episode that reset has begun; ``seed`` varies its ways."""
        return Expert(self.task, self.world, seed)

    def geom_ids(self, camera: str) -> np.ndarray:
        """(H, W) int32: the MuJoCo geom that each pixel of the camera shows, -1 for none."""
        return self._ensure_renderer().geom_ids(self._data, self._camera_ids[camera])

    # ---- building ----

    def _build(self) -> None:
        if self._world is not None:
            return
        config = self.config
        self._world = tasks.make_world(config.task, config.robot, config.controller, config.fps, config.joint_noise_rad)
        self._disturbances = Disturbances(config, self._description.movable_cameras)
        self._disturbances.prepare(self._world)
        model = self._world.sim.model
        self._camera_ids = {name: model.camera_name2id(name) for name in self._description.cameras}
        self._shown_camera = (config.cameras or self._description.cameras)[0]
        if config.cameras:
            self._ensure_renderer()

    def _ensure_renderer(self) -> CameraRenderer:
        if self._renderer is None:
            config = self.config
            model = self._world.sim.model._model
            self._renderer = CameraRenderer(model, config.image_height_px, config.image_width_px, config.renderer)
        return self._renderer

    def _reset_world(self, episode_seed: int) -> None:
        self._disturbances.undo()
        python_state = random.getstate()
        random.seed(episode_seed)
        try:
            with tasks.global_seed(episode_seed):
                self._world.reset()
        finally:
            random.setstate(python_state)

    # ---- stepping ----

    @property
    def _data(self) -> Any:
        return self._world.sim.data._data

    def _checked(self, action: np.ndarray) -> np.ndarray:
        action = np.asarray(action, np.float64)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise SimError(f"an action must be {self.action_space.shape} finite numbers, got {action.shape}: {action}")
        return np.clip(action, -1, 1)

    def _info(self, success: bool) -> dict[str, Any]:
        return {"is_success": success, "task": self.task}

    def _observe(self, observations: dict[str, np.ndarray]) -> dict[str, Any]:
        state = tasks.read_state(observations, tuple(self.config.state_keys), len(self._world.robots))
        seen = self._faults.see(self._look) if self.config.cameras else {}
        return ({"agent_pos": state} if self.config.state_keys else {}) | seen

    def _look(self) -> dict[str, Any]:
        """Images and geometry of all cameras, without faults."""
        pixels, rest = {}, {}
        model, data = self._world.sim.model, self._data
        size = self.config.image_height_px, self.config.image_width_px
        for name in self.config.cameras:
            camera_id = self._camera_ids[name]
            if self.config.depth:
                pixels[name], rest[f"depth_m.{name}"] = self._renderer.rgb_and_depth(data, camera_id)
            else:
                pixels[name] = self._renderer.rgb(data, camera_id)
            rest[f"intrinsics.{name}"] = geometry.intrinsics(model.cam_fovy[camera_id], *size)
            rest[f"world_from_camera.{name}"] = geometry.world_from_camera(
                data.cam_xpos[camera_id], data.cam_xmat[camera_id]
            )
        return {"pixels": pixels} | rest


def _observation_space(config: RobosuiteEnvConfig, state_size: int) -> spaces.Dict:
    height, width = config.image_height_px, config.image_width_px
    parts: dict[str, spaces.Space] = {}
    if config.state_keys:
        parts["agent_pos"] = _real((state_size,))
    if config.cameras:
        image = spaces.Box(0, 255, (height, width, 3), np.uint8)
        parts["pixels"] = spaces.Dict({name: image for name in config.cameras})
    for name in config.cameras:
        parts[f"intrinsics.{name}"] = _real((3, 3))
        parts[f"world_from_camera.{name}"] = _real((4, 4))
        if config.depth:
            parts[f"depth_m.{name}"] = spaces.Box(0, np.inf, (height, width), np.float32)
    return spaces.Dict(parts)


def _real(shape: tuple[int, ...]) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, shape, np.float32)
