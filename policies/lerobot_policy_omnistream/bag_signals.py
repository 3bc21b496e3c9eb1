"""Topics of a bag as rows of numbers with stamps: joint states, commands, poses, and when images were taken."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omnistream_core.errors import SourceError
from omnistream_core.sources.recording import Recording, open_recording

logger = logging.getLogger(__name__)

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
TWIST_NAMES = ("linear_x", "linear_y", "linear_z", "angular_x", "angular_y", "angular_z")
POSE_NAMES = ("x", "y", "z", "qx", "qy", "qz", "qw")

Row = tuple[Sequence[str], Sequence[float]]


def _joint_state(message: Any) -> Row:
    return message.name, message.position


def _trajectory(message: Any) -> Row | None:
    """The goal: the last point; None for a trajectory without points, which stops a controller and is no goal."""
    return (message.joint_names, message.points[-1].positions) if message.points else None


def _array(message: Any) -> Row:
    return [f"{index}" for index in range(len(message.data))], message.data


def _number(message: Any) -> Row:
    return ["0"], [message.data]


def _twist(message: Any) -> Row:
    twist = getattr(message, "twist", message)
    return TWIST_NAMES, [getattr(part, axis) for part in (twist.linear, twist.angular) for axis in "xyz"]


def _pose(message: Any) -> Row:
    pose = message.pose
    return POSE_NAMES, [*(getattr(pose.position, a) for a in "xyz"), *(getattr(pose.orientation, a) for a in "xyzw")]


READERS: dict[str, Callable[[Any], Row | None]] = {
    "sensor_msgs/msg/JointState": _joint_state,
    "trajectory_msgs/msg/JointTrajectory": _trajectory,
    "std_msgs/msg/Float64MultiArray": _array,
    "std_msgs/msg/Float32MultiArray": _array,
    "std_msgs/msg/Float64": _number,
    "std_msgs/msg/Float32": _number,
    "geometry_msgs/msg/Twist": _twist,
    "geometry_msgs/msg/TwistStamped": _twist,
    "geometry_msgs/msg/PoseStamped": _pose,
}


@dataclass(frozen=True, kw_only=True)
class Signal:
    """One topic in the order of its stamps.

    Attributes:
        topic: its name.
        stamps_ns: (N,) int64, of the header, or of the recorder where there is no header or its stamp is 0.
        names: of the columns; joints in the order of the first message. Empty for images.
        values: (N, columns) float32; (N, 0) for images.
    """

    topic: str
    stamps_ns: np.ndarray
    names: tuple[str, ...]
    values: np.ndarray

    def newest_before(self, times_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(index, age in ns) of the newest message at or before each time; index -1 before the first."""
        index = np.searchsorted(self.stamps_ns, times_ns, side="right") - 1
        return index, times_ns - self.stamps_ns[np.maximum(index, 0)]


def read_signals(path: Path, images: Sequence[str], numbers: Sequence[str]) -> dict[str, Signal]:
    """All the topics named, by the name they were asked for.

    Raises:
        SourceError: no bag, a topic that is not there, is empty or of a type that cannot be read (those that can are
            listed), or messages of a topic that do not name the same columns. Trajectories without points are left
            out and counted in a warning.
    """
    recording = open_recording(path)
    try:
        found = {name: _find(recording, name, IMAGE_TYPES, path) for name in images}
        found |= {name: _find(recording, name, tuple(READERS), path) for name in numbers}
        rows: dict[str, list[tuple[int, Row]]] = {topic: [] for topic in found.values()}
        skipped: Counter[str] = Counter()
        for message in recording.messages(set(rows)):
            parsed, _ = recording.deserialize(message)
            reader = READERS.get(message.msgtype)
            row = reader(parsed) if reader else ((), ())
            if row is None:
                skipped[message.topic] += 1
            else:
                rows[message.topic].append((_stamp_ns(parsed, message.log_ns), row))
    finally:
        recording.close()
    for topic, count in skipped.items():
        logger.warning("%s: %s: %d trajectories without points left out", path, topic, count)
    return {name: _signal(path, topic, rows[topic]) for name, topic in found.items()}


def _find(recording: Recording, wanted: str, types: Sequence[str], path: Path) -> str:
    usable = {topic.name: topic for topic in recording.topics.values() if topic.msgtype in types and topic.count}
    for name in usable:
        if name.strip("/") == wanted.strip("/"):
            return name
    listed = ", ".join(f"{topic.name} ({topic.msgtype}, {topic.count})" for topic in usable.values()) or "none"
    kind = "image" if types == IMAGE_TYPES else "state or command"
    raise SourceError(f"{path}: no {kind} topic {wanted!r} with messages; there are: {listed}")


def _stamp_ns(message: Any, log_ns: int) -> int:
    header = getattr(message, "header", None)
    stamp_ns = header.stamp.sec * 10**9 + header.stamp.nanosec if header is not None else 0
    return stamp_ns or log_ns


def _signal(path: Path, topic: str, rows: list[tuple[int, Row]]) -> Signal:
    if not rows:
        raise SourceError(f"{path}: {topic} has no message with numbers")
    names = tuple(rows[0][1][0])
    values = [_ordered(path, topic, names, row) for _, row in rows]
    stamps_ns = np.array([stamp_ns for stamp_ns, _ in rows], np.int64)
    order = np.argsort(stamps_ns, kind="stable")
    return Signal(
        topic=topic,
        stamps_ns=stamps_ns[order],
        names=names,
        values=np.array(values, np.float32).reshape(len(rows), len(names))[order],
    )


def _ordered(path: Path, topic: str, names: tuple[str, ...], row: Row) -> list[float]:
    """The values of a message in the order of ``names``, whatever its own."""
    given = dict(zip(row[0], row[1], strict=False))
    missing = [name for name in names if name not in given]
    if missing or len(row[0]) != len(names):
        raise SourceError(f"{path}: {topic} names {', '.join(names)} at first, and later {', '.join(row[0]) or 'none'}")
    return [float(given[name]) for name in names]
