"""The only place that turns OpenCV axes and wxyz quaternions into those of ROS, and messages into arrays and back.

The camera's optical frame has OpenCV axes: x right, y down, z forward. Body frames have REP 103 axes: x forward,
y left, z up. The world of a stream is the optical frame of its first image; ``odom`` is the same place with body axes.
"""

from __future__ import annotations

from array import array

import numpy as np
import torch
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose, Transform, TransformStamped
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField
from std_msgs.msg import Header

from omnistream_core.geometry import matrix_to_quaternion
from omnistream_core.sources.image_codec import ImageError, decode_compressed, decode_image
from omnistream_core.types import CameraModel
from omnistream_ros.cloud import FIELDS

BODY_FROM_OPTICAL_44 = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]], dtype=np.float64)
SMALLEST_SIDE_PX, LARGEST_SIDE_PX, LARGEST_ASPECT = 16, 8192, 8
UNKNOWN_VARIANCE = 1e6


# ---- poses ----


def odom_from_optical(world_from_camera_44: np.ndarray) -> np.ndarray:
    """(4, 4): from the optical frame to ``odom``, for points."""
    return BODY_FROM_OPTICAL_44 @ world_from_camera_44


def odom_from_camera_link(world_from_camera_44: np.ndarray) -> np.ndarray:
    """(4, 4) pose of the camera with body axes in ``odom``, both REP 103."""
    return BODY_FROM_OPTICAL_44 @ world_from_camera_44 @ BODY_FROM_OPTICAL_44.T


def quaternion_xyzw(matrix_44: np.ndarray) -> tuple[float, float, float, float]:
    """In the order of geometry_msgs/Quaternion, w >= 0."""
    w, x, y, z = matrix_to_quaternion(torch.from_numpy(matrix_44[:3, :3])).tolist()
    return x, y, z, w


def pose_message(matrix_44: np.ndarray) -> Pose:
    pose = Pose()
    pose.position.x, pose.position.y, pose.position.z = matrix_44[:3, 3].tolist()
    q = pose.orientation
    q.x, q.y, q.z, q.w = quaternion_xyzw(matrix_44)
    return pose


def transform_message(header: Header, child_frame: str, pose: Pose) -> TransformStamped:
    """child_frame in the header's frame; the position and orientation objects of ``pose`` are copied."""
    transform = Transform(rotation=pose.orientation)
    transform.translation.x, transform.translation.y, transform.translation.z = (
        pose.position.x,
        pose.position.y,
        pose.position.z,
    )
    return TransformStamped(header=header, child_frame_id=child_frame, transform=transform)


def odometry_message(
    header: Header, child_frame: str, pose: Pose, *, position_stddev_m: float, angle_stddev_rad: float
) -> Odometry:
    """The pose with its covariance; the twist is not known, and its covariance says so."""
    odometry = Odometry(header=header, child_frame_id=child_frame)
    odometry.pose.pose = pose
    variances = [position_stddev_m**2] * 3 + [angle_stddev_rad**2] * 3
    odometry.pose.covariance[::7] = variances
    odometry.twist.covariance[::7] = [UNKNOWN_VARIANCE] * 6
    return odometry


# ---- time ----


def stamp_ns_of(stamp: Time) -> int:
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def stamp_message(stamp_ns: int) -> Time:
    return Time(sec=int(stamp_ns // 1_000_000_000), nanosec=int(stamp_ns % 1_000_000_000))


# ---- images ----


def decode(message: Image | CompressedImage) -> np.ndarray:
    """(H, W, 3) uint8 RGB.

    Raises:
        SourceError: an unknown encoding, a malformed image, a size that no camera has.
    """
    if isinstance(message, CompressedImage):
        image_HW3 = decode_compressed(message.data, message.format)
        _check_size(*image_HW3.shape[:2])
        return image_HW3
    if message.height and message.width:
        _check_size(message.height, message.width)
    return decode_image(
        message.encoding, message.height, message.width, message.step, message.is_bigendian, message.data
    )


def _check_size(height: int, width: int) -> None:
    small, large = min(height, width), max(height, width)
    if small < SMALLEST_SIDE_PX or large > LARGEST_SIDE_PX or large > LARGEST_ASPECT * small:
        raise ImageError(
            "size out of range",
            f"{width}x{height} px; sides of {SMALLEST_SIDE_PX} to {LARGEST_SIDE_PX} px and at most "
            f"{LARGEST_ASPECT}:1 are needed",
        )


def fill_image(message: Image, pixels_HWx: np.ndarray, encoding: str) -> None:
    """Write pixels into a message that is kept from image to image; its memory changes only with the size."""
    pixels = np.ascontiguousarray(pixels_HWx)
    height, width = pixels.shape[:2]
    if len(message.data) != pixels.nbytes:
        message.data = array("B", bytes(pixels.nbytes))
    message.height, message.width, message.encoding = height, width, encoding
    message.step, message.is_bigendian = pixels.nbytes // height, 0
    memoryview(message.data)[:] = pixels.reshape(-1).view(np.uint8).data


def millimetres(depth_m_HW: np.ndarray) -> np.ndarray:
    """(H, W) uint16 of REP 118: 0 where unknown or beyond 65.535 m."""
    scaled_HW = np.rint(depth_m_HW * np.float32(1000))
    with np.errstate(invalid="ignore"):
        return np.where((scaled_HW > 0) & (scaled_HW <= 65535), scaled_HW, 0).astype(np.uint16)


# ---- intrinsics ----


def info_from_camera(camera: CameraModel, header: Header) -> CameraInfo:
    """The inverse of the core's ``camera_from_info``, without binning."""
    fx, fy, cx, cy = camera.fx_px, camera.fy_px, camera.cx_px - 0.5, camera.cy_px - 0.5
    return CameraInfo(
        header=header,
        height=camera.height_px,
        width=camera.width_px,
        distortion_model=camera.distortion_model or "plumb_bob",
        d=list(camera.distortion) or [0.0] * 5,
        k=[fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0],
    )


def is_distorted(camera: CameraModel) -> bool:
    """The images are not those of a pinhole."""
    return any(abs(value) > 1e-9 for value in camera.distortion)


# ---- clouds ----


def point_cloud(fields: tuple[str, ...] = FIELDS) -> PointCloud2:
    """An empty cloud with the first ``len(fields)`` of ``cloud.FIELDS``, to be filled again and again."""
    places = [PointField(name=f, offset=4 * i, datatype=PointField.FLOAT32, count=1) for i, f in enumerate(fields)]
    return PointCloud2(fields=places, point_step=4 * len(fields), is_bigendian=False)


def fill_cloud(message: PointCloud2, points: np.ndarray) -> None:
    """Write (n, f) or organised (h, w, f) float32 points into a cloud from ``point_cloud``."""
    organized = points.ndim == 3
    message.height, message.width = points.shape[:2] if organized else (1, len(points))
    message.point_step = points.shape[-1] * 4
    message.row_step = message.point_step * message.width
    message.is_dense = not organized
    raw = points.reshape(-1).view(np.uint8).data
    if len(message.data) == len(raw):
        memoryview(message.data)[:] = raw
    else:
        del message.data[:]
        message.data.frombytes(raw)
