"""Actions as messages, and states from messages. Shape letters: A numbers of an action, S of a state."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import TwistStamped
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from omnistream_core.errors import ConfigError
from omnistream_policy.parameters import PolicySettings, given

COMMAND_TYPES = {
    "joint_trajectory": JointTrajectory,
    "float64_multi_array": Float64MultiArray,
    "twist_stamped": TwistStamped,
}
MakeCommand = Callable[[np.ndarray, Time], Any]


def command_maker(settings: PolicySettings, size: int) -> MakeCommand:
    """Makes a message of an action (A,) and the time now.

    Raises:
        ConfigError: the type of message cannot carry so many numbers.
    """
    if settings.command_type == "float64_multi_array":
        return lambda action_A, now: Float64MultiArray(data=array("d", action_A.tolist()))
    if settings.command_type == "twist_stamped":
        if size != 6:
            raise ConfigError(f"the policy's action has {size} numbers; a twist has 6")
        return lambda action_A, now: _twist(action_A, now, settings.command_frame)
    joints = given(settings.command_joints) or given(settings.joints)
    if len(joints) != size:
        named = ", ".join(joints) or "none"
        raise ConfigError(f"the policy's action has {size} numbers; command_joints names {len(joints)}: {named}")
    period_s = 1 / settings.rate_hz
    return lambda action_A, now: _trajectory(action_A, joints, period_s)


def _trajectory(action_A: np.ndarray, joints: list[str], period_s: float) -> JointTrajectory:
    """One point, to be reached by the next command; a stamp of 0 means from now on."""
    point = JointTrajectoryPoint(positions=array("d", action_A.tolist()))
    point.time_from_start = Duration(sec=int(period_s), nanosec=int(period_s % 1 * 1e9))
    return JointTrajectory(joint_names=joints, points=[point])


def _twist(action_A: np.ndarray, now: Time, frame_id: str) -> TwistStamped:
    message = TwistStamped()
    message.header.stamp, message.header.frame_id = now, frame_id
    linear, angular = message.twist.linear, message.twist.angular
    linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = action_A.tolist()
    return message


def state_of(message: JointState | Float64MultiArray, joints: Sequence[str], size: int) -> np.ndarray:
    """(S,) float64: positions in the order of ``joints``, or as the message has them where that is empty.

    Raises:
        ConfigError: a joint is missing, or there are not ``size`` numbers.
    """
    values = message.data if isinstance(message, Float64MultiArray) else message.position
    if joints and isinstance(message, JointState):
        known = dict(zip(message.name, message.position, strict=False))
        missing = [name for name in joints if name not in known]
        if missing:
            raise ConfigError(f"joint_states lacks {', '.join(missing)}; it has: {', '.join(known) or 'none'}")
        values = [known[name] for name in joints]
    if len(values) != size:
        raise ConfigError(f"joint_states gives {len(values)} numbers; the policy's state has {size}")
    return np.array(values, float)
