"""The parameters of the policy node: each a field with its default, its range and what it says. There are no others."""

from __future__ import annotations

from dataclasses import dataclass

from omnistream_core.errors import ConfigError
from omnistream_ros.parameters import check, setting


@dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """Parameters of the policy node. Lists of numbers hold one for all numbers of a command, or one for each."""

    policy: str = setting("", "folder or hub id of a trained LeRobot policy, of any type that LeRobot finds")
    device: str = setting("cpu", "torch device of the policy: cpu, cuda, cuda:0, ...")
    threads: int = setting(0, "CPU threads of the policy; 0 leaves it to torch", low=0, high=256)
    task: str = setting("", "what to do, in words, for policies that are told", live=True)
    autostart: bool = setting(False, "configure and activate at once, for machines without a lifecycle manager")

    rate_hz: float = setting(20.0, "commands a second: the rate of the data it was trained on", low=0.1, high=1000.0)
    max_age_s: float = setting(
        0.3,
        "an image or a state stamped, or a decision begun, longer ago than this: hold, seconds",
        low=0.01,
        high=60.0,
        live=True,
    )
    transport: str = setting("raw", "image_raw, or image_raw/compressed", choices=("raw", "compressed"))
    image_qos: str = setting("sensor_data", "reliability asked of the cameras", choices=("sensor_data", "reliable"))
    state_type: str = setting(
        "joint_state",
        "of joint_states: sensor_msgs/JointState, or std_msgs/Float64MultiArray for any other state",
        choices=("joint_state", "float64_multi_array"),
    )
    joints: list[str] = setting(  # noqa: RUF009  a field, not a value
        [""], "joints of the policy's state, in its order; a single empty name: as joint_states has them"
    )

    command_type: str = setting(
        "joint_trajectory",
        "trajectory_msgs/JointTrajectory of one point, std_msgs/Float64MultiArray or geometry_msgs/TwistStamped",
        choices=("joint_trajectory", "float64_multi_array", "twist_stamped"),
    )
    command_joints: list[str] = setting(  # noqa: RUF009
        [""], "joints that a command moves, in its order: the first starts where they are; one empty name: joints"
    )
    command_frame: str = setting("base_link", "frame_id of a twist")
    command_kind: str = setting(
        "position",
        "to hold is to repeat the last position, or to send zeros: velocities, differences",
        choices=("position", "velocity"),
    )
    command_low: list[float] = setting([-1e9], "smallest command, in its units")  # noqa: RUF009
    command_high: list[float] = setting([1e9], "largest command, in its units")  # noqa: RUF009
    max_change_per_s: list[float] = setting([1.0], "fastest change of a command, its units a second")  # noqa: RUF009

    def __post_init__(self) -> None:
        check(self)
        if len({len(values) for values in self._limits() if len(values) > 1}) > 1:
            raise ConfigError(f"{self._limits_text()}: one number each, or the same number of them")
        if any(low > high for low, high in _pairs(self.command_low, self.command_high)):
            raise ConfigError(f"{self._limits_text()}: low must not exceed high")
        if not all(change > 0 for change in self.max_change_per_s):
            raise ConfigError(f"max_change_per_s = {self.max_change_per_s}: must be positive")

    def _limits(self) -> tuple[list[float], ...]:
        return self.command_low, self.command_high, self.max_change_per_s

    def _limits_text(self) -> str:
        return f"command_low = {self.command_low}, command_high = {self.command_high}, " + (
            f"max_change_per_s = {self.max_change_per_s}"
        )


def given(names: list[str]) -> list[str]:
    """The names of a list whose single empty name stands for none: ROS cannot tell the type of an empty list."""
    return [name for name in names if name]


def _pairs(first: list[float], second: list[float]) -> list[tuple[float, float]]:
    size = max(len(first), len(second))
    return list(zip(*(values * size if len(values) == 1 else values for values in (first, second)), strict=True))
