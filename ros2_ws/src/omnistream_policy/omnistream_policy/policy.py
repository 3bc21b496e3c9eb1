"""A trained LeRobot policy, loaded as LeRobot loads it. The only module that imports LeRobot.

Shape letters: H W pixels, S numbers of a state, A numbers of an action.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from omnistream_core.errors import CheckpointError, ConfigError
from omnistream_policy.parameters import PolicySettings

STATE, ACTION = "observation.state", "action"
RATE_TOLERANCE = 0.01


@dataclass(frozen=True, kw_only=True)
class PolicyShape:
    """What a policy takes and gives.

    Attributes:
        images_hw: (height, width) in pixels of the images it was trained on, by LeRobot key.
        state_size: numbers of ``observation.state``; 0 without one.
        action_size: numbers of an action.
        rate_hz: of the data it was trained on; None where the policy does not keep it.
    """

    images_hw: Mapping[str, tuple[int, int]]
    state_size: int
    action_size: int
    rate_hz: float | None = None

    def rate_complaint(self, rate_hz: float) -> str:
        """A sentence where actions made for one rate are commanded at another; "" where not, or where it is unknown."""
        if self.rate_hz is None or math.isclose(self.rate_hz, rate_hz, rel_tol=RATE_TOLERANCE):
            return ""
        speed = f"it moves {rate_hz / self.rate_hz:.3g} times as fast"
        return f"rate_hz is {rate_hz:g}; the policy was trained at {self.rate_hz:g} Hz: {speed}"

    def cameras(self) -> dict[str, str]:
        """Name of the camera by LeRobot key: ``observation.images.front`` is ``front``."""
        return {key: key.rsplit(".", 1)[-1] for key in self.images_hw}


class Policy(Protocol):
    """What the node runs."""

    shape: PolicyShape

    def reset(self) -> None:
        """Forget the episode: memory, actions decided ahead."""

    def act(self, images: Mapping[str, np.ndarray], state_S: np.ndarray, task: str) -> np.ndarray:
        """(A,) the action for images (H, W, 3) uint8 RGB by LeRobot key, and the state."""


class LeRobotPolicy:
    """
    Raises:
        CheckpointError: nothing there that LeRobot can load.
        ConfigError: no path, or a policy that asks for inputs which no topic brings.
    """

    def __init__(self, settings: PolicySettings) -> None:
        import torch
        from lerobot.policies.utils import prepare_observation_for_inference

        if settings.threads:
            torch.set_num_threads(settings.threads)
        self._torch, self._prepare = torch, prepare_observation_for_inference
        self._device = torch.device(settings.device)
        self._policy, self._before, self._after = _load(settings.policy, settings.device)
        self.shape = shape_of(self._policy.config)
        self.reset()

    def reset(self) -> None:
        self._policy.reset()
        self._before.reset()
        self._after.reset()

    def act(self, images: Mapping[str, np.ndarray], state_S: np.ndarray, task: str) -> np.ndarray:
        observation: dict[str, Any] = dict(images)
        if self.shape.state_size:
            observation[STATE] = state_S.astype(np.float32)
        with self._torch.inference_mode():
            batch = self._before(self._prepare(observation, self._device, task))
            action_1A = self._after(self._policy.select_action(batch))
        return action_1A.squeeze(0).float().cpu().numpy()


def _load(path: str, device: str) -> tuple[Any, Any, Any]:
    """(policy, preprocessor, postprocessor) through LeRobot's own factory, plugins included."""
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors
    from lerobot.utils.import_utils import register_third_party_plugins

    if not path:
        raise ConfigError("policy = '': the folder or hub id of a trained LeRobot policy is needed")
    register_third_party_plugins()
    try:
        config = PreTrainedConfig.from_pretrained(path)
        config.device = device
        policy = get_policy_class(config.type).from_pretrained(path, config=config)
        overrides = {"device_processor": {"device": device}}
        before, after = make_pre_post_processors(config, path, preprocessor_overrides=overrides)
    except Exception as error:  # a missing file, a foreign type, weights of other shapes: each raises its own
        raise CheckpointError(f"{path}: LeRobot loads no policy from there: {type(error).__name__}: {error}") from None
    return policy.to(device).eval(), before, after


def shape_of(config: Any) -> PolicyShape:
    """What a LeRobot policy's configuration says that it takes.

    Raises:
        ConfigError: inputs that no topic brings.
    """
    images = {key: feature.shape for key, feature in config.image_features.items()}
    foreign = [key for key in config.input_features if key not in images and key != STATE]
    if foreign:
        raise ConfigError(f"the policy asks for {', '.join(foreign)}; topics bring images and {STATE}")
    state = config.input_features.get(STATE)
    return PolicyShape(
        images_hw={key: (shape[1], shape[2]) for key, shape in images.items()},
        state_size=state.shape[0] if state else 0,
        action_size=config.output_features[ACTION].shape[0],
        rate_hz=getattr(config, "fps", None),
    )
