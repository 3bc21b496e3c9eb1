"""Axes, quaternions, images, intrinsics and clouds: there and back, and against hand-made values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ros_harness import image_message, info_message, picture
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from omnistream_core.errors import ConfigError, SourceError
from omnistream_core.geometry import quaternion_to_matrix
from omnistream_core.sources.camera_info import camera_from_info
from omnistream_core.types import CameraModel, Prediction
from omnistream_ros import conversions
from omnistream_ros.cloud import CloudBuilder, colours_of


def pose(rotation_vector: tuple[float, float, float], translation: tuple[float, float, float]) -> np.ndarray:
    import cv2

    matrix = np.eye(4)
    matrix[:3, :3] = cv2.Rodrigues(np.array(rotation_vector, float))[0]
    matrix[:3, 3] = translation
    return matrix


def prediction(depth_HW: np.ndarray, world_from_camera: np.ndarray | None = None) -> Prediction:
    height, width = depth_HW.shape
    return Prediction(
        index=0,
        stream_index=0,
        stamp_ns=0,
        frame_id="cam",
        features_hwD=np.zeros((2, 2, 4), np.float32),
        cls_D=np.zeros(4, np.float32),
        depth_m_HW=depth_HW.astype(np.float32),
        confidence_HW=np.linspace(1, 3, depth_HW.size, dtype=np.float32).reshape(depth_HW.shape),
        model_rays_hw6=np.zeros((2, 2, 6), np.float32),
        world_from_camera_44=np.eye(4) if world_from_camera is None else world_from_camera,
        fov_xy_rad=(1.0, 1.0),
        camera=CameraModel(width_px=width, height_px=height, fx_px=50, fy_px=55, cx_px=width / 2 + 1, cy_px=height / 2),
    )


@pytest.mark.parametrize(
    ("moved_optical", "moved_body"),
    [((0, 0, 1), (1, 0, 0)), ((1, 0, 0), (0, -1, 0)), ((0, 1, 0), (0, 0, -1))],
    ids=["forward", "right", "down"],
)
def test_moving_in_optical_axes_is_moving_in_body_axes(moved_optical: tuple, moved_body: tuple) -> None:
    matrix = conversions.odom_from_camera_link(pose((0, 0, 0), moved_optical))
    np.testing.assert_allclose(matrix[:3, 3], moved_body)
    np.testing.assert_allclose(matrix[:3, :3], np.eye(3))


def test_turning_right_is_a_negative_yaw() -> None:
    """Around the optical y, which points down, by +90 degrees: the nose turns right."""
    matrix = conversions.odom_from_camera_link(pose((0, np.pi / 2, 0), (0, 0, 0)))
    np.testing.assert_allclose(matrix[:3, :3] @ [1, 0, 0], [0, -1, 0], atol=1e-12)
    x, y, z, w = conversions.quaternion_xyzw(matrix)
    np.testing.assert_allclose((x, y, z, w), (0, 0, -np.sqrt(0.5), np.sqrt(0.5)), atol=1e-12)


def test_a_point_ahead_is_where_the_camera_looks() -> None:
    """odom -> camera_link -> optical frame takes a point where odom -> optical frame does."""
    world = pose((0.1, -0.4, 0.2), (0.3, 0.2, -1))
    through_link = conversions.odom_from_camera_link(world) @ conversions.BODY_FROM_OPTICAL_44
    np.testing.assert_allclose(through_link, conversions.odom_from_optical(world), atol=1e-12)


@given(st.tuples(*[st.floats(-3, 3)] * 3), st.tuples(*[st.floats(-100, 100)] * 3))
@settings(max_examples=50, deadline=None)
def test_poses_survive_their_message(rotation: tuple, translation: tuple) -> None:
    matrix = pose(rotation, translation)
    message = conversions.pose_message(matrix)
    q, place = message.orientation, message.position
    turn = quaternion_to_matrix(torch.tensor([q.w, q.x, q.y, q.z], dtype=torch.float64))
    np.testing.assert_allclose(turn, matrix[:3, :3], atol=1e-9)
    assert [place.x, place.y, place.z] == list(translation)


@pytest.mark.parametrize("stamp_ns", [0, 1, 1_700_000_000_123_456_789, 2**31 * 10**9 - 1])
def test_stamps_survive_their_message(stamp_ns: int) -> None:
    assert conversions.stamp_ns_of(conversions.stamp_message(stamp_ns)) == stamp_ns


def test_images_survive_their_message_and_its_memory_is_kept() -> None:
    message = Image()
    for seed in range(3):
        conversions.fill_image(message, picture(seed), "rgb8")
        np.testing.assert_array_equal(conversions.decode(message), picture(seed))
    before = message.data
    conversions.fill_image(message, picture(9), "rgb8")
    assert message.data is before


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_compressed_images(suffix: str) -> None:
    import cv2

    data = cv2.imencode(suffix, picture(1)[..., ::-1])[1].tobytes()
    decoded = conversions.decode(CompressedImage(format=suffix[1:], data=data))
    assert np.abs(decoded.astype(int) - picture(1)).mean() < 3


@pytest.mark.parametrize("size_hw", [(1, 100), (15, 15), (16, 200), (9000, 2000)])
def test_sizes_that_no_camera_has_are_refused(size_hw: tuple[int, int]) -> None:
    message = Image(height=size_hw[0], width=size_hw[1], encoding="mono8", step=size_hw[1])
    with pytest.raises(SourceError, match="size out of range"):
        conversions.decode(message)


def test_millimetres_have_zero_for_unknown() -> None:
    depth = np.array([[0.0, 0.0004, 1.2345, 65.535, 65.6, np.nan, np.inf, -1.0]], np.float32)
    assert conversions.millimetres(depth).tolist() == [[0, 0, 1234, 65535, 0, 0, 0, 0]]


def test_intrinsics_move_by_half_a_pixel_and_come_back() -> None:
    info = info_message((480, 640), 0, focal_px=500.0)
    camera = camera_from_info(info)
    assert (camera.cx_px, camera.cy_px, camera.fx_px) == (320.0, 240.0, 500.0)
    back = conversions.info_from_camera(camera, Header())
    np.testing.assert_array_equal(back.k, info.k)


def test_binning_and_region_of_interest() -> None:
    info = info_message((480, 640), 0, focal_px=500.0)
    info.binning_x = info.binning_y = 2
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 100, 40, 400, 300
    camera = camera_from_info(info)
    assert (camera.width_px, camera.height_px) == (200, 150)
    assert (camera.fx_px, camera.cx_px, camera.cy_px) == (250.0, 110.0, 100.0)


@pytest.mark.parametrize("fault", ["nan", "zero focal", "zero size"])
def test_uncalibrated_cameras_are_refused(fault: str) -> None:
    info = info_message((480, 640), 0)
    if fault == "zero size":
        info.width = 0
    else:
        info.k[0] = np.nan if fault == "nan" else 0.0
    with pytest.raises(ConfigError, match="camera"):
        camera_from_info(info)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_cloud_is_the_unprojected_depth(stride: int) -> None:
    depth = np.random.default_rng(0).uniform(0.5, 5, (48, 65))
    world = pose((0.1, 0.5, -0.2), (1, 2, 3))
    guess, image = prediction(depth, world), picture(0, (48, 65))
    limits = {"min_confidence": 1.0, "min_depth_m": 0.0, "max_depth_m": 100.0}
    organized = CloudBuilder(organized=True, stride=stride, **limits).build(guess, image)
    in_world = organized[..., :3] @ world[:3, :3].T + world[:3, 3]
    np.testing.assert_allclose(in_world, guess.points_m_HW3[::stride, ::stride], atol=2e-5)
    compact = CloudBuilder(organized=False, stride=stride, **limits).build(guess, image)
    np.testing.assert_array_equal(compact, organized.reshape(-1, 5))
    np.testing.assert_array_equal(colours_of(compact), image[::stride, ::stride].reshape(-1, 3))


def test_the_cloud_keeps_to_its_limits() -> None:
    depth = np.tile(np.linspace(0.1, 10, 40), (32, 1))
    guess, image = prediction(depth), picture(0, (32, 40))
    limits = {"min_confidence": 2.0, "min_depth_m": 1.0, "max_depth_m": 4.0}
    valid = (guess.confidence_HW >= 2) & (depth >= 1) & (depth <= 4)
    compact = CloudBuilder(organized=False, stride=1, **limits).build(guess, image)
    assert len(compact) == valid.sum() and np.isfinite(compact[:, :3]).all()
    organized = CloudBuilder(organized=True, stride=1, **limits).build(guess, image)
    np.testing.assert_array_equal(np.isfinite(organized[..., 0]), valid)


def test_clouds_survive_their_message() -> None:
    message = conversions.point_cloud()
    for points in (np.random.rand(7, 5), np.random.rand(4, 5), np.random.rand(3, 6, 5), np.empty((0, 5))):
        points = points.astype(np.float32)
        conversions.fill_cloud(message, points)
        assert len(message.data) == message.row_step * message.height
        assert (message.height, message.width) == (points.shape[:2] if points.ndim == 3 else (1, len(points)))
        np.testing.assert_array_equal(np.frombuffer(message.data, np.float32), points.reshape(-1))


def test_image_messages_of_the_harness_are_right() -> None:
    np.testing.assert_array_equal(conversions.decode(image_message(picture(3), 5)), picture(3))
