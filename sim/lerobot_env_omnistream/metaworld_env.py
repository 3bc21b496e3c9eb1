"""LeRobot's Meta-World environment with our renderer. Imported when the first is made: it takes Meta-World along."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from lerobot.envs.metaworld import MetaworldEnv

from lerobot_env_omnistream.metaworld import STATE_SIZE, MetaworldEnvConfig
from lerobot_env_omnistream.rendering import CameraRenderer, choose_backend

# What MuJoCo draws by default; Meta-World does not tell what is seen from what collides.
SHOWN_GEOM_GROUPS = (0, 1, 2)


class SizedMetaworldEnv(MetaworldEnv):
    """LeRobot's environment for one task, ``pixels`` (S, S, 3) uint8 and ``agent_pos`` (4,): hand m, gripper."""

    def __init__(self, config: MetaworldEnvConfig):
        size_px = config.image_size_px
        sizes = {"observation_width": size_px, "observation_height": size_px}
        super().__init__(config.task, obs_type="pixels_agent_pos", **sizes)
        self.config = config
        self.metadata = {**self.metadata, "render_fps": config.fps}
        self._max_episode_steps = config.episode_length
        self._true_state: np.ndarray | None = None
        self._renderer: CameraRenderer | None = None
        self._steps = 0
        if not config.images:
            self.observation_space = gym.spaces.Dict({"agent_pos": self.observation_space["agent_pos"]})

    def reset(self, seed: int | None = None, **kwargs: Any) -> tuple[dict, dict[str, Any]]:
        self._steps = 0
        return super().reset(seed, **kwargs)

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict[str, Any]]:
        steps = self._steps + 1
        observation, reward, terminated, truncated, info = super().step(action)
        self._steps = steps
        truncated = not terminated and (truncated or steps >= self._max_episode_steps)
        return observation, float(reward), terminated, truncated, info

    def make_expert(self, seed: int) -> MetaworldExpert:
        """Meta-World's own expert for the task; it does the same for every seed."""
        return MetaworldExpert(self.expert_policy, lambda: self._true_state)

    def _ensure_env(self) -> None:
        if self._env is None:
            choose_backend()  # before MuJoCo is imported
        super()._ensure_env()

    def render(self) -> np.ndarray:
        """(S, S, 3) uint8, upright. Gymnasium's renderer would draw shadows, which takes four fifths of the time,
        and black pictures as soon as another environment of the process was closed."""
        self._ensure_env()
        if self._renderer is None:
            size_px = self.config.image_size_px
            self._renderer = CameraRenderer(self._env.model, size_px, size_px, groups=SHOWN_GEOM_GROUPS)
        upside_down_HW3 = self._renderer.rgb(self._env.data, self._env.model.camera(self.camera_name).id)
        return np.ascontiguousarray(upside_down_HW3[::-1, ::-1])

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        super().close()

    def _format_raw_obs(self, raw_obs: np.ndarray) -> dict[str, Any]:
        self._true_state = raw_obs
        observation = {"agent_pos": raw_obs[:STATE_SIZE]}
        return observation | {"pixels": self.render()} if self.config.images else observation


class MetaworldExpert:
    """Meta-World's scripted policy, acting on the true state."""

    def __init__(self, policy: Any, true_state: Any):
        self._policy, self._true_state = policy, true_state

    def act(self) -> np.ndarray:
        """(4,) float32 in -1 ... 1: hand and gripper."""
        return np.clip(self._policy.get_action(self._true_state()), -1, 1).astype(np.float32)
