"""A trained LeRobot policy, loaded as LeRobot loads it. The only module that imports LeRobot.

Shape letters: H W pixels, S numbers of a state, T steps of a plan, A numbers of an action.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from omnistream_core.errors import CheckpointError, ConfigError
from omnistream_policy.parameters import PolicySettings

STATE, ACTION = "observation.state", "action"
RATE_TOLERANCE = 0.01
# Inferences whose durations tell how long the next one will take: the longest few count, as in the paper on real-time
# chunking (Black et al. 2025). Too long a delay makes a plan late to change, too short a one makes it jump.
TIMED_INFERENCES = 10


@dataclass(frozen=True, kw_only=True)
class PolicyShape:
    """What a policy takes and gives.

    Attributes:
        images_hw: (height, width) in pixels of the images it was trained on, by LeRobot key.
        state_size: numbers of ``observation.state``; 0 without one.
        action_size: numbers of an action.
        rate_hz: of the data it was trained on; None where the policy does not keep it.
        text_encoder: of a policy that is told what to do; None for any other, and where LeRobot's own do not say.
    """

    images_hw: Mapping[str, tuple[int, int]]
    state_size: int
    action_size: int
    rate_hz: float | None = None
    text_encoder: str | None = None

    def task_complaint(self, task: str) -> str:
        """A sentence where a policy that is told what to do is told nothing; "" where not."""
        if self.text_encoder is None or task.strip():
            return ""
        return f"task = {task!r}: the policy has a text_encoder ({self.text_encoder}) and must be told what to do"

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
    """What the node runs: an action for every observation."""

    shape: PolicyShape

    def reset(self) -> None:
        """Forget the episode: memory, actions decided ahead."""

    def act(self, images: Mapping[str, np.ndarray], state_S: np.ndarray, task: str) -> np.ndarray:
        """(A,) the action for images (H, W, 3) uint8 RGB by LeRobot key, and the state."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Chunk:
    """A plan that was made on one observation. Its first step is the one at which that was taken.

    Attributes:
        actions_TA: as they will be carried out.
        normalised_TA: a tensor, as the policy gave them: the next plan goes on from these.
        ahead: actions that had been planned for these steps when planning began.
        since_s: when planning began, by a monotonic clock.
    """

    actions_TA: np.ndarray
    normalised_TA: Any
    ahead: int
    since_s: float


@runtime_checkable
class RealTimePolicy(Protocol):
    """What the node runs where inference must not stall the arm: one thread plans, the other takes what is planned."""

    shape: PolicyShape

    def reset(self) -> None:
        """Forget the episode: memory and plan."""

    def plan(self, images: Mapping[str, np.ndarray], state_S: np.ndarray, task: str) -> Chunk | None:
        """The next chunk, or None where none is due. The observation is that of the step of the last action taken."""

    def merge(self, chunk: Chunk) -> None:
        """Actions are taken from this chunk from now on, less the steps that have passed since it was begun."""

    def take(self) -> np.ndarray | None:
        """(A,) the action of the next step; None where none is planned."""

    def clear(self) -> None:
        """Forget the plan alone."""


def load_policy(settings: PolicySettings) -> Policy | RealTimePolicy:
    """The policy as it was saved: with ``rtc_config`` enabled it plans in real time.

    Raises:
        CheckpointError: nothing there that LeRobot can load.
        ConfigError: no path, or a policy that asks for what this node does not do.
    """
    rtc = getattr(_read_config(settings.policy), "rtc_config", None)
    return LeRobotPolicy(settings) if rtc is None or not rtc.enabled else RealTimeLeRobotPolicy(settings)


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

    def reset(self) -> None:
        self._policy.reset()
        self._before.reset()
        self._after.reset()

    def act(self, images: Mapping[str, np.ndarray], state_S: np.ndarray, task: str) -> np.ndarray:
        with self._torch.inference_mode():
            action_1A = self._after(self._policy.select_action(self._batch(images, state_S, task)))
        return action_1A.squeeze(0).float().cpu().numpy()

    def _batch(self, images: Mapping[str, np.ndarray], state_S: np.ndarray, task: str) -> Any:
        observation: dict[str, Any] = dict(images)
        if self.shape.state_size:
            observation[STATE] = state_S.astype(np.float32)
        return self._before(self._prepare(observation, self._device, task))


class RealTimeLeRobotPolicy(LeRobotPolicy):
    """Real-time chunking with LeRobot's own queue.

    A chunk is due when no more than ``chunk_size - n_action_steps`` actions are left, or so few that they would all be
    taken before it is there: as long as the last inferences took, unless a whole chunk would not last that long.

    Raises:
        ConfigError: also a policy that has ``rtc_config`` but cannot go on from a plan as it is kept here.
    """

    def __init__(self, settings: PolicySettings) -> None:
        from lerobot.policies.rtc import ActionQueue, LatencyTracker

        super().__init__(settings)
        _check_real_time(self._policy, self._before)
        self._rate_hz = settings.rate_hz
        self._queue = ActionQueue(self._policy.config.rtc_config)
        self._latency = LatencyTracker(maxlen=TIMED_INFERENCES)
        self._lock = threading.Lock()  # of the queue together with the action taken from it
        self._taken_1A = self._torch.empty(0)  # normalised, of the last step; empty if none was

    def reset(self) -> None:
        super().reset()
        self.clear()

    def plan(self, images: Mapping[str, np.ndarray], state_S: np.ndarray, task: str) -> Chunk | None:
        since_s = time.monotonic()
        with self._lock:
            left_TA, taken_1A = self._left_over(), self._taken_1A
        delay_steps = math.ceil(self._latency.p95() * self._rate_hz)
        with self._torch.no_grad():  # guidance takes gradients, which tensors of inference mode cannot have
            batch = self._batch(images, state_S, task)
            if not self._is_due(len(left_TA), delay_steps):
                self._observe(batch)
                return None
            ahead_TA = self._torch.cat([taken_1A, left_TA])
            return self._chunk(batch, ahead_TA, delay_steps, since_s)

    def _is_due(self, left: int, delay_steps: int) -> bool:
        config = self._policy.config
        return left <= config.chunk_size - config.n_action_steps or left <= delay_steps < config.chunk_size

    def _chunk(self, batch: Any, ahead_TA: Any, delay_steps: int, since_s: float) -> Chunk:
        chunk_1TA = self._policy.predict_action_chunk(
            batch,
            inference_delay=min(delay_steps, len(ahead_TA)),
            prev_chunk_left_over=ahead_TA.to(self._device) if len(ahead_TA) else None,
        )
        return Chunk(
            actions_TA=self._after(chunk_1TA).squeeze(0).float().cpu().numpy(),
            normalised_TA=chunk_1TA.squeeze(0).cpu(),
            ahead=len(ahead_TA),
            since_s=since_s,
        )

    def _observe(self, batch: Any) -> None:
        """A policy that remembers sees every observation; of those that LeRobot brings none has to."""
        if hasattr(self._policy, "observe"):
            self._policy.observe(batch)

    def merge(self, chunk: Chunk) -> None:
        with self._lock:
            passed = chunk.ahead - self._queue.qsize()
            self._queue.merge(chunk.normalised_TA, self._torch.from_numpy(chunk.actions_TA), passed)
        self._latency.add(time.monotonic() - chunk.since_s)

    def take(self) -> np.ndarray | None:
        with self._lock:
            self._taken_1A = self._left_over()[:1]
            action_A = self._queue.get()
        return None if action_A is None else action_A.numpy()

    def clear(self) -> None:
        with self._lock:
            self._queue.clear()
            self._taken_1A = self._left_over()

    def _left_over(self) -> Any:
        """(T, A) normalised; (0,) where nothing has been planned."""
        left_TA = self._queue.get_left_over()
        return self._torch.empty(0) if left_TA is None else left_TA


def _check_real_time(policy: Any, before: Any) -> None:
    from lerobot.processor import RelativeActionsProcessorStep
    from lerobot.rollout.inference.rtc import supports_rtc_inference

    if not supports_rtc_inference(policy):
        raise ConfigError(f"rtc_config is enabled, but a policy of type {policy.config.type!r} does not do that")
    if any(isinstance(step, RelativeActionsProcessorStep) and step.enabled for step in before.steps):
        raise ConfigError("rtc_config is enabled; this node cannot go on from actions relative to the state")


def _read_config(path: str) -> Any:
    from lerobot.configs import PreTrainedConfig
    from lerobot.utils.import_utils import register_third_party_plugins

    if not path:
        raise ConfigError("policy = '': the folder or hub id of a trained LeRobot policy is needed")
    register_third_party_plugins()
    try:
        return PreTrainedConfig.from_pretrained(path)
    except Exception as error:  # a missing file, a foreign type
        raise _cannot_load(path, error) from None


def _load(path: str, device: str) -> tuple[Any, Any, Any]:
    """(policy, preprocessor, postprocessor) through LeRobot's own factory, plugins included."""
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    config = _read_config(path)
    config.device = device
    try:
        policy = get_policy_class(config.type).from_pretrained(path, config=config)
        overrides = {"device_processor": {"device": device}}
        before, after = make_pre_post_processors(config, path, preprocessor_overrides=overrides)
    except Exception as error:  # a package that is missing, weights of other shapes: each raises its own
        raise _cannot_load(path, error) from None
    return policy.to(device).eval(), before, after


def _cannot_load(path: str, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path}: LeRobot loads no policy from there: {type(error).__name__}: {error}")


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
        text_encoder=getattr(config, "text_encoder", None),
    )
