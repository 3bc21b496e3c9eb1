"""One image's points in its camera's own axes, ready for PointCloud2. No ROS.

Shape letters: H W pixels, h w pixels on the grid of ``stride``, n points.
"""

from __future__ import annotations

import cv2
import numpy as np

from omnistream_core.types import CameraModel, Prediction

FIELDS = ("x", "y", "z", "rgb", "confidence")  # 4 bytes each; rgb is 0x00RRGGBB, the others are float32


class CloudBuilder:
    """Unprojects depth; its memory is allocated when the size of the images first shows, and kept.

    Args:
        organized: keep rows and columns, NaN where invalid; else only the valid points, in row-major order.
        stride: every how manieth row and column, beginning with the first.
        min_confidence, min_depth_m, max_depth_m: what a valid point needs.
    """

    def __init__(
        self, *, organized: bool, stride: int, min_confidence: float, min_depth_m: float, max_depth_m: float
    ) -> None:
        self.organized, self.stride = organized, stride
        self._min_confidence, self._min_depth_m, self._max_depth_m = min_confidence, min_depth_m, max_depth_m
        self._camera: CameraModel | None = None
        self._points_hw5 = np.empty((0, 0, 5), np.float32)
        self._compact_n5 = np.empty((0, 5), np.float32)

    def build(self, prediction: Prediction, image_HW3: np.ndarray) -> np.ndarray:
        """(h, w, 5) float32 if organized, else (n, 5), columns as ``FIELDS``. Valid until the next call."""
        step = self.stride
        depth_hw, confidence_hw = prediction.depth_m_HW[::step, ::step], prediction.confidence_HW[::step, ::step]
        if depth_hw.shape != self._points_hw5.shape[:2]:
            self._allocate(depth_hw.shape)
        if prediction.camera != self._camera:
            self._aim(prediction.camera)
        points = self._points_hw5
        np.multiply(depth_hw, self._x_w, out=points[..., 0])
        np.multiply(depth_hw, self._y_h1, out=points[..., 1])
        points[..., 2] = depth_hw
        points[..., 4] = confidence_hw
        bgra_hw4 = cv2.cvtColor(np.ascontiguousarray(image_HW3[::step, ::step]), cv2.COLOR_RGB2BGRA)
        np.bitwise_and(bgra_hw4.view("<u4")[..., 0], 0x00FFFFFF, out=points.view("<u4")[..., 3])
        valid_hw = (depth_hw >= self._min_depth_m) & (depth_hw <= self._max_depth_m)
        valid_hw &= confidence_hw >= self._min_confidence
        if self.organized:
            points[~valid_hw, :3] = np.nan
            return points
        chosen_n = np.flatnonzero(valid_hw)
        count = len(chosen_n)
        np.take(points.reshape(-1, 5), chosen_n, axis=0, out=self._compact_n5[:count], mode="clip")
        return self._compact_n5[:count]

    def _allocate(self, size_hw: tuple[int, int]) -> None:
        self._points_hw5 = np.empty((*size_hw, 5), np.float32)
        self._compact_n5 = np.empty((size_hw[0] * size_hw[1], 5), np.float32)
        self._camera = None

    def _aim(self, camera: CameraModel) -> None:
        columns, rows = (np.arange(0, size, self.stride) + 0.5 for size in (camera.width_px, camera.height_px))
        self._x_w = ((columns - camera.cx_px) / camera.fx_px).astype(np.float32)
        self._y_h1 = ((rows - camera.cy_px) / camera.fy_px).astype(np.float32)[:, None]
        self._camera = camera


def colours_of(points_n5: np.ndarray) -> np.ndarray:
    """(n, 3) uint8 RGB of compact points."""
    bgr0_n4 = np.ascontiguousarray(points_n5[:, 3]).view(np.uint8).reshape(-1, 4)
    return bgr0_n4[:, 2::-1]
