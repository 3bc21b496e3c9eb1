"""A recording for the Rerun viewer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rerun as rr

from omnistream_core.sinks.base import Sink
from omnistream_core.sinks.drawing import colour_confidence
from omnistream_core.sinks.points import sure_pixels
from omnistream_core.types import Frame, Prediction

PATH_EVERY = 10  # frames between two drawings of the whole path
MAX_PATH = 2000  # corners of the path drawn


class RerunRecording(Sink):
    """One ``.rrd`` with the timelines ``frame`` and, where there are stamps, ``stamp``, beside Rerun's own.

    ==========================  =====================================================================
    ``world``                   the stream's world, OpenCV axes (right, down, forward)
    ``world/camera``            pose; ``/image`` pinhole with the input, ``/depth`` metres as 16-bit mm
    ``world/points``            this frame's surest points, every ``stride_px`` pixels
    ``world/path``              the path so far, at least every 10 frames
    ``confidence``              confidence as colours of its logarithm
    ==========================  =====================================================================

    Depth beyond 65.5 m is left out of ``/depth``; the points hold it. Images are kept at ``jpeg_quality``.
    """

    def __init__(
        self, path: str | Path, *, stride_px: int = 4, drop_quantile: float = 0.3, jpeg_quality: int = 90
    ) -> None:
        super().__init__(path)
        self._stride_px, self._drop_quantile, self._jpeg_quality = stride_px, drop_quantile, jpeg_quality
        self._path: list[np.ndarray] = []
        self._path_step, self._count = 1, 0
        self._recording = rr.RecordingStream("omnistream")
        self._recording.save(str(self.path))
        self._recording.log("world", rr.ViewCoordinates.RDF, static=True)

    def _write(self, frame: Frame, prediction: Prediction) -> None:
        self._set_time(prediction)
        self._log_camera(frame, prediction)
        keep_HW = sure_pixels(prediction, self._drop_quantile, self._stride_px)
        points = rr.Points3D(prediction.points_m_HW3[keep_HW], colors=frame.image_HW3[keep_HW], radii=0.01)
        self._recording.log("world/points", points)
        self._log_path(prediction.world_from_camera_44[:3, 3])

    def _set_time(self, prediction: Prediction) -> None:
        self._recording.set_time("frame", sequence=prediction.index)
        if prediction.stamp_ns is not None:
            self._recording.set_time("stamp", timestamp=np.datetime64(prediction.stamp_ns, "ns"))

    def _log_camera(self, frame: Frame, prediction: Prediction) -> None:
        log, pose_44, camera = self._recording.log, prediction.world_from_camera_44, prediction.camera
        log("world/camera", rr.Transform3D(translation=pose_44[:3, 3], mat3x3=pose_44[:3, :3]))
        pinhole = rr.Pinhole(
            image_from_camera=camera.matrix_33,
            resolution=[camera.width_px, camera.height_px],
            camera_xyz=rr.ViewCoordinates.RDF,
        )
        log("world/camera/image", pinhole)
        log("world/camera/image", rr.Image(frame.image_HW3).compress(jpeg_quality=self._jpeg_quality))
        log("world/camera/image/depth", rr.DepthImage(_millimetres(prediction.depth_m_HW), meter=1000.0))
        log(
            "confidence",
            rr.Image(colour_confidence(prediction.confidence_HW)).compress(jpeg_quality=self._jpeg_quality),
        )

    def _log_path(self, position_3: np.ndarray) -> None:
        if self._count % self._path_step == 0:
            self._path.append(np.array(position_3, dtype=np.float32))
        if len(self._path) > MAX_PATH:
            self._path, self._path_step = self._path[::2], self._path_step * 2
        if self._count % PATH_EVERY == 0:
            self._draw_path()
        self._count += 1

    def _draw_path(self) -> None:
        if self._path:
            self._recording.log("world/path", rr.LineStrips3D([np.stack(self._path)], colors=[[255, 160, 0]]))

    def _close(self) -> None:
        self._draw_path()
        self._recording.flush()
        self._recording.disconnect()


def _millimetres(depth_m_HW: np.ndarray) -> np.ndarray:
    """(H, W) uint16, 0 where it does not fit."""
    millimetres_HW = np.nan_to_num(depth_m_HW, nan=0.0, posinf=0.0) * 1000
    return np.where(millimetres_HW < 65535, millimetres_HW, 0).astype(np.uint16)
