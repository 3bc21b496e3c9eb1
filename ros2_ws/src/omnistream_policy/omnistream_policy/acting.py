"""From an observation to a command that may be sent. No ROS node, no clock of its own.

Two threads come here: the worker with observations, the timer at every beat. One lock keeps their commands in order.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from omnistream_core.errors import SourceError
from omnistream_policy.limits import Limits
from omnistream_policy.parameters import PolicySettings
from omnistream_policy.policy import Chunk, Policy, RealTimePolicy
from omnistream_ros.status import Percentiles

LARGEST_ASPECT_CHANGE = 1.02


@dataclass(frozen=True, kw_only=True, eq=False)
class Observation:
    """The newest of everything at one moment.

    Attributes:
        images: message by LeRobot key, not decoded yet.
        state_S: (S,); empty for a policy without a state.
        arm_A: (A,) where the arm is, in the order of a command; None where commands are velocities.
        task: in words.
        taken_s: when, by a monotonic clock.
    """

    images: Mapping[str, Any]
    state_S: np.ndarray
    arm_A: np.ndarray | None
    task: str
    taken_s: float


@dataclass
class ActingStatus:
    """Counts since the node was configured; ``failure`` is why there was no newest decision, "" if there was."""

    commands: int = 0
    held: int = 0
    skipped: int = 0
    late: int = 0
    failed: int = 0
    failure: str = ""
    clipped: int = 0
    slowed: int = 0
    resets: int = 0
    latency_ms: Percentiles = field(default_factory=Percentiles)


class Acting:
    """Every decision is sent as soon as it is there.

    Args:
        policy: decides.
        limits: of its commands.
        decode: makes (H, W, 3) uint8 RGB of an image message.
        send: publishes a command (A,).
    """

    def __init__(
        self,
        policy: Policy,
        limits: Limits,
        settings: PolicySettings,
        decode: Callable[[Any], np.ndarray],
        send: Callable[[np.ndarray], None],
    ) -> None:
        self.status = ActingStatus()
        self.settings = settings
        self._policy, self._limits, self._decode, self._send = policy, limits, decode, send
        self._lock = threading.Lock()
        self._last_A: np.ndarray | None = None
        self._may_send = False
        self._released_s = 0.0
        self._busy_since_s: float | None = None

    def act(self, observation: Observation) -> None:
        """Decide and send, unless the node holds or has held since, or the observation has grown old.

        Raises:
            Exception: whatever went wrong: an image that cannot be used, an action that is not finite, the policy's
                own. The last command has then been held once more.
        """
        self._busy_since_s = time.monotonic()
        try:
            decision = self._decide(observation)
        except Exception as error:
            self._fail(error)
            raise
        finally:
            self._busy_since_s = None
        if decision is not None:
            self._accept_if_current(decision, observation)

    def beat(self, observation: Observation) -> str:
        """Carry out what is planned for this beat. Why it is held instead; "" where it is not."""
        return ""

    def _decide(self, observation: Observation) -> Any:
        """A decision for ``_accept``; None where none is due."""
        action_A = self._policy.act(self._pictures(observation), observation.state_S, observation.task)
        return self._finite(action_A)

    def _accept_if_current(self, decision: Any, observation: Observation) -> None:
        with self._lock:
            age_s = time.monotonic() - observation.taken_s
            is_of_before = observation.taken_s < self._released_s
            if not self._may_send or is_of_before or age_s > self.settings.max_age_s:
                self.status.late += 1
                return
            self.status.latency_ms.add(age_s * 1e3)
            self._accept(decision, observation)

    def _accept(self, decision: Any, observation: Observation) -> None:
        self._send_limited(decision, observation)

    @staticmethod
    def _finite(actions: np.ndarray) -> np.ndarray:
        actions = np.asarray(actions, float)
        if not np.isfinite(actions).all():
            raise SourceError(f"the policy's action is not finite: {actions.tolist()}")
        return actions

    def _pictures(self, observation: Observation) -> dict[str, np.ndarray]:
        return {key: self._picture(key, message) for key, message in observation.images.items()}

    def _fail(self, error: Exception) -> None:
        with self._lock:
            self.status.failed += 1
            self.status.failure = f"{type(error).__name__}: {error}"
            if self._may_send:
                self._give_up()

    def _give_up(self) -> None:
        self._send_held()

    def _picture(self, key: str, message: Any) -> np.ndarray:
        image_HW3 = self._decode(message)
        height, width = self._policy.shape.images_hw[key]
        if image_HW3.shape[:2] == (height, width):
            return image_HW3
        aspect_change = image_HW3.shape[1] / image_HW3.shape[0] / (width / height)
        if not 1 / LARGEST_ASPECT_CHANGE < aspect_change < LARGEST_ASPECT_CHANGE:
            seen = f"{image_HW3.shape[1]}x{image_HW3.shape[0]}"
            raise SourceError(f"{key} is {seen} px; the policy was trained on {width}x{height}: another aspect")
        return cv2.resize(image_HW3, (width, height), interpolation=cv2.INTER_AREA)

    def _send_limited(self, action_A: np.ndarray, observation: Observation) -> None:
        limited = self._limits.apply(action_A, self._reference_A(observation))
        self._last_A = limited.command_A
        self._send(limited.command_A)
        self.status.commands += 1
        self.status.failure = ""
        self.status.clipped += limited.clipped
        self.status.slowed += limited.slowed

    def _reference_A(self, observation: Observation) -> np.ndarray:
        """What the next command may differ from by a limited amount: the last one; at first where the arm is, or 0."""
        if self._last_A is not None:
            return self._last_A
        if self.settings.command_kind == "velocity":
            return np.zeros(self._policy.shape.action_size)
        assert observation.arm_A is not None, "a position is never sent before the arm's own is known"
        return observation.arm_A

    def busy_s(self, now_s: float) -> float:
        """For how long the policy has been deciding; 0 when it is not."""
        since_s = self._busy_since_s
        return 0.0 if since_s is None else now_s - since_s

    def forget(self) -> None:
        """The last command is none to go on from: while nothing was commanded, the arm may have been moved."""
        with self._lock:
            self._last_A = None

    def release(self, now_s: float) -> None:
        """Commands may be sent from now on, on observations from now on."""
        with self._lock:
            self._may_send, self._released_s = True, now_s

    def hold(self) -> None:
        """No decision is sent from now on. Repeats the last position, or sends zeros where commands are velocities."""
        with self._lock:
            self._may_send = False
            self._send_held()

    def _send_held(self) -> None:
        if self.settings.command_kind == "velocity":
            self._last_A = np.zeros(self._policy.shape.action_size)
        if self._last_A is not None:
            self._send(self._last_A)
            self.status.held += 1

    def reset(self) -> None:
        """The policy begins anew."""
        self._policy.reset()
        self.status.resets += 1


class RealTimeActing(Acting):
    """Every decision is a plan, of which a beat carries out one action, whatever the worker does meanwhile.

    A beat for which nothing is planned holds. A decision that fails, and every other hold, empties the plan.
    """

    _policy: RealTimePolicy

    def beat(self, observation: Observation) -> str:
        with self._lock:
            action_A = self._policy.take()
            if action_A is not None:
                self._send_limited(action_A, observation)
                return ""
            self._send_held()
        return f"no action is planned, the policy has been deciding for {self.busy_s(observation.taken_s):.2f} s"

    def hold(self) -> None:
        super().hold()  # from here on no plan is accepted
        self._policy.clear()

    def _decide(self, observation: Observation) -> Chunk | None:
        chunk = self._policy.plan(self._pictures(observation), observation.state_S, observation.task)
        if chunk is not None:
            self._finite(chunk.actions_TA)
        return chunk

    def _accept(self, decision: Chunk, observation: Observation) -> None:
        self._policy.merge(decision)

    def _give_up(self) -> None:
        self._policy.clear()
