"""sensor_msgs/CameraInfo to intrinsics, without ROS. Used for recordings and by the ROS 2 node alike."""

from __future__ import annotations

from typing import Any

from omnistream_core.types import CameraModel


def camera_from_info(info: Any) -> CameraModel:
    """Intrinsics of the images that ``info`` speaks of, its binning and region of interest taken into account.

    K, not P: rays are those of the image as recorded. ROS counts pixel centres as integers, we count pixel corners: the
    principal point moves by half a pixel.

    Args:
        info: a CameraInfo of ROS 1 (fields ``K``, ``D``) or ROS 2 (``k``, ``d``).

    Raises:
        ConfigError: zero size, focal length not positive, values that are not finite: an uncalibrated camera.
    """
    k, d = (info.k, info.d) if hasattr(info, "k") else (info.K, info.D)
    fx, _, cx, _, fy, cy, *_ = (float(value) for value in k)
    x_bins, y_bins = max(1, info.binning_x), max(1, info.binning_y)
    width, height = info.roi.width or info.width, info.roi.height or info.height
    return CameraModel(
        width_px=int(width) // x_bins,
        height_px=int(height) // y_bins,
        fx_px=fx / x_bins,
        fy_px=fy / y_bins,
        cx_px=(cx + 0.5 - info.roi.x_offset) / x_bins,
        cy_px=(cy + 0.5 - info.roi.y_offset) / y_bins,
        distortion_model=str(info.distortion_model),
        distortion=tuple(float(value) for value in d),
    )
