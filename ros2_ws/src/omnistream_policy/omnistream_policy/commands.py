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
State = JointState | Float64MultiArray
FindArm = Callable[[State], np.ndarray]
ReadState = Callable[[State], tuple[np.ndarray, np.ndarray | None]]


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
    joints, period_s = _moved(settings, size), 1 / settings.rate_hz
    return lambda action_A, now: _trajectory(action_A, joints, period_s)


def _moved(settings: PolicySettings, size: int) -> list[str]:
    """The joints of a command, in its order."""
    joints = given(settings.command_joints) or given(settings.joints)
    if len(joints) != size:
        named = ", ".join(joints) or "none"
        raise ConfigError(f"the policy's action has {size} numbers; command_joints names {len(joints)}: {named}")
    return joints


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


def state_reader(settings: PolicySettings, state_size: int, action_size: int) -> ReadState:
    """Reads the policy's state (S,) and where the arm is (A,), in the order of a command: there the first one starts.

    The latter is None where commands are velocities: they start from zero. What ``state_of`` raises, the reader raises.

    Raises:
        ConfigError: no state can tell where a command starts, so that the first could not be limited.
    """
    joints = given(settings.joints)
    find_arm = _arm_finder(settings, state_size, action_size) if settings.command_kind == "position" else None

    def read(message: State) -> tuple[np.ndarray, np.ndarray | None]:
        state_S = state_of(message, joints, state_size) if state_size else np.zeros(0)
        return state_S, find_arm(message) if find_arm else None

    return read


def _arm_finder(settings: PolicySettings, state_size: int, size: int) -> FindArm:
    """By the names of joints; number for number only where neither state nor command has any."""
    if settings.command_type == "twist_stamped":
        raise ConfigError("command_type = 'twist_stamped' needs command_kind = 'velocity': a twist is no position")
    if settings.state_type == "joint_state":
        moved = _moved(settings, size)
        return lambda message: state_of(message, moved, size)
    joints = given(settings.joints)
    moved = _moved(settings, size) if joints or given(settings.command_joints) else []
    numbers, missing = len(joints) or size, [name for name in moved if name not in joints]
    if missing or state_size not in (0, numbers):
        raise ConfigError(
            f"the first command could not be limited: the policy's state has {state_size} numbers, joints names "
            f"{', '.join(joints) or 'none'}, the command moves {', '.join(moved) or f'{size} without names'}"
        )
    order = [joints.index(name) for name in moved] or list(range(size))
    return lambda message: state_of(message, [], numbers)[order]


def state_of(message: State, joints: Sequence[str], size: int) -> np.ndarray:
    """(S,) float64: positions in the order of ``joints``, or as the message has them where that is empty.

    Raises:
        ConfigError: a joint is missing, there are not ``size`` numbers, or one is not finite.
    """
    values = message.data if isinstance(message, Float64MultiArray) else message.position
    if joints and isinstance(message, JointState):
        known = dict(zip(message.name, message.position, strict=False))
        missing = [name for name in joints if name not in known]
        if missing:
            raise ConfigError(f"joint_states lacks {', '.join(missing)}; it has: {', '.join(known) or 'none'}")
        values = [known[name] for name in joints]
    if len(values) != size:
        raise ConfigError(f"joint_states gives {len(values)} numbers; {size} are needed")
    state_S = np.array(values, float)
    if not np.isfinite(state_S).all():
        raise ConfigError(f"joint_states gives numbers that are not finite: {state_S.tolist()}")
    return state_S
