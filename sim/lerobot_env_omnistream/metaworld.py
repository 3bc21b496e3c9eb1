"""LeRobot's Meta-World environment with pictures of a chosen size, and Meta-World's own scripted experts.

``--env.type=metaworld_sized`` differs from LeRobot's ``--env.type=metaworld`` in the size of its pictures (LeRobot's
are 480 x 480 pixels, which a CPU draws slowly), in its horizon, and in that ``MT10`` and ``MT50`` are tasks.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, ClassVar

import gymnasium as gym
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_IMAGE, OBS_STATE

from lerobot_env_omnistream.config import check_ranges, check_types, vector_of
from lerobot_env_omnistream.errors import SimError

RANGES = {"fps": (1, 500, "Hz"), "episode_length": (1, 500, "steps"), "image_size_px": (16, 480, "pixels")}
STATE_SIZE, ACTION_SIZE = 4, 4


@cache
def task_sets() -> dict[str, tuple[str, ...]]:
    """The names of Meta-World's tasks: MT10 and all of them, MT50; SimError where Meta-World is not installed."""
    try:
        from metaworld.env_dict import MT10_V3, MT50_V3
    except ImportError as error:
        raise SimError(f"Meta-World does not load ({error}): pip install 'metaworld>=3,<4'") from error
    return {"MT10": tuple(MT10_V3), "MT50": tuple(MT50_V3)}


@EnvConfig.register_subclass("metaworld_sized")
@dataclass
class MetaworldEnvConfig(EnvConfig):
    """Meta-World tasks, one camera (corner2), hand and gripper as state.

    Raises:
        SimError: a value of another type or outside its range, or an unknown task; the message names the value and the
            valid choices.
    """

    robot: ClassVar[str] = "Sawyer"
    # One task (reach-v3), several with commas between them, MT10 or MT50.
    task: str | None = "reach-v3"
    # Control rate, Hz: LeRobot's and Meta-World's.
    fps: int = 80
    # Horizon, steps.
    episode_length: int = 400
    # Height and width of the picture.
    image_size_px: int = 128
    # Without pictures the environment is physics alone, for measuring experts.
    images: bool = True

    features: dict[str, PolicyFeature] = field(default_factory=dict)
    features_map: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_types(self)
        check_ranges(self, RANGES)
        self.task_names()
        self.features = {
            ACTION: PolicyFeature(FeatureType.ACTION, (ACTION_SIZE,)),
            "agent_pos": PolicyFeature(FeatureType.STATE, (STATE_SIZE,)),
        }
        self.features_map = {ACTION: ACTION, "agent_pos": OBS_STATE}
        if self.images:
            shape = (self.image_size_px, self.image_size_px, 3)
            self.features["pixels"] = PolicyFeature(FeatureType.VISUAL, shape)
            self.features_map["pixels"] = OBS_IMAGE

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        return {"config": self}

    def task_names(self) -> tuple[str, ...]:
        """The tasks that ``task`` stands for."""
        if self.task in task_sets():
            return task_sets()[self.task]
        names = tuple(name.strip().removeprefix("metaworld-") for name in (self.task or "").split(","))
        for name in names:
            if name not in task_sets()["MT50"]:
                known = ", ".join([*task_sets(), *sorted(task_sets()["MT50"])])
                raise SimError(f"unknown metaworld task {name!r}; known: {known}")
        return names

    def settings(self) -> dict[str, Any]:
        """Every field that the user sets, as plain values."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("features", "features_map")}

    def create_envs(self, n_envs: int, use_async_envs: bool = False) -> dict[str, dict[int, gym.vector.VectorEnv]]:
        """``{task: {0: vector of n_envs environments}}`` for each task; each builds its world at its first reset."""
        return {config.task: {0: vector_of(config.make_env, n_envs, use_async_envs)} for config in self.single_tasks()}

    # ---- what recording and trials ask of any environment ----

    def make_env(self) -> gym.Env:
        from lerobot_env_omnistream.metaworld_env import SizedMetaworldEnv

        return SizedMetaworldEnv(self)

    def single_tasks(self) -> list[MetaworldEnvConfig]:
        return [replace(self, task=name) for name in self.task_names()]

    def without_images(self) -> MetaworldEnvConfig:
        return replace(self, images=False)

    def require_expert(self) -> None:
        """Every task has one; a recording needs pictures."""
        if not self.images:
            raise SimError("a recording needs pictures: leave images at true")
