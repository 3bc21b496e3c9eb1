"""The camera's path as text, as the TUM RGB-D benchmark writes it and evo reads it."""

from __future__ import annotations

from pathlib import Path

import torch

from omnistream_core.geometry import matrix_to_quaternion
from omnistream_core.sinks.base import Sink
from omnistream_core.types import Frame, Prediction


class Trajectory(Sink):
    """One line a frame, on disk as soon as it is written: ``t tx ty tz qx qy qz qw``.

    ``t`` is the stamp in seconds, or the frame's index where the source has no stamps; the pose is camera to the
    stream's world, metres, OpenCV axes.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self._file = self.path.open("w", encoding="ascii", buffering=1)
        self._file.write("# t tx ty tz qx qy qz qw\n")

    def _write(self, frame: Frame, prediction: Prediction) -> None:
        pose_44 = torch.as_tensor(prediction.world_from_camera_44, dtype=torch.float64)
        w, x, y, z = matrix_to_quaternion(pose_44[:3, :3]).tolist()
        numbers = " ".join(f"{value:.9f}" for value in (*pose_44[:3, 3].tolist(), x, y, z, w))
        self._file.write(f"{_seconds(prediction)} {numbers}\n")

    def _close(self) -> None:
        self._file.close()


def _seconds(prediction: Prediction) -> str:
    if prediction.stamp_ns is None:
        return str(prediction.index)
    sign, stamp_ns = "-" if prediction.stamp_ns < 0 else "", abs(prediction.stamp_ns)
    return f"{sign}{stamp_ns // 1_000_000_000}.{stamp_ns % 1_000_000_000:09d}"
