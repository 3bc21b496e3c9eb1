"""The environments that can be recorded, by name, and what recording and trials ask of them."""

from __future__ import annotations

import json
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces

from lerobot_env_omnistream.config import RobosuiteEnvConfig
from lerobot_env_omnistream.errors import SimError
from lerobot_env_omnistream.metaworld import MetaworldEnvConfig

EnvConfig = RobosuiteEnvConfig | MetaworldEnvConfig
ENVIRONMENTS: dict[str, type[EnvConfig]] = {"robosuite": RobosuiteEnvConfig, "metaworld": MetaworldEnvConfig}


class RecordedExpert(Protocol):
    """Solves the episode that its environment is in."""

    def act(self) -> np.ndarray: ...


class RecordedEnv(Protocol):
    """A Gymnasium environment with LeRobot's observation keys, a text for its task, and an expert."""

    config: EnvConfig
    task: str
    task_description: str
    observation_space: spaces.Dict
    action_space: spaces.Box

    def reset(self, *, seed: int | None = None) -> tuple[dict, dict[str, Any]]: ...
    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict[str, Any]]: ...
    def make_expert(self, seed: int) -> RecordedExpert: ...


def config_class(name: str) -> type[EnvConfig]:
    """The settings of the environment of that name; SimError lists the names there are."""
    if name not in ENVIRONMENTS:
        raise SimError(f"unknown environment {name!r}; known: {', '.join(ENVIRONMENTS)}")
    return ENVIRONMENTS[name]


def config_to_json(config: EnvConfig) -> str:
    """The settings as one line, for another process."""
    name = next(name for name, known in ENVIRONMENTS.items() if isinstance(config, known))
    return json.dumps([name, config.settings()])


def config_from_json(text: str) -> EnvConfig:
    """The inverse of :func:`config_to_json`."""
    name, settings = json.loads(text)
    return config_class(name)(**settings)
