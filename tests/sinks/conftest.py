"""A short walk through a made-up room, as a session would predict it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from omnistream_core.types import CameraModel, Frame, Prediction

HEIGHT, WIDTH = 48, 64


def make_step(index: int, *, stamps: bool = True, truth: bool = True, size_hw: tuple[int, int] = (HEIGHT, WIDTH)):
    """A wall 2 m ahead, its left half red, its right half blue; the camera moves 5 cm to the right a frame."""
    height, width = size_hw
    image_HW3 = np.zeros((height, width, 3), np.uint8)
    image_HW3[:, : width // 2], image_HW3[:, width // 2 :] = (230, 20, 20), (20, 20, 230)
    pose_44 = np.eye(4)
    pose_44[0, 3] = 0.05 * index
    camera = CameraModel(width_px=width, height_px=height, fx_px=50.0, fy_px=50.0, cx_px=width / 2, cy_px=height / 2)
    stamp_ns = 1_700_000_000_123_456_789 + index * 100_000_000 if stamps else None
    rows, columns = height // 8, width // 8
    features_hwD = np.zeros((rows, columns, 16), np.float32)
    features_hwD[:, : columns // 2, 0] = 1
    features_hwD[: rows // 2, :, 1] = 1
    features_hwD += np.random.default_rng(index).normal(scale=0.01, size=features_hwD.shape).astype(np.float32)
    confidence_HW = np.ones((height, width), np.float32)
    confidence_HW[: height // 2] = 5
    true_44 = pose_44.copy()
    true_44[:3, 3] = 2 * pose_44[[2, 1, 0], 3]
    frame = Frame(
        image_HW3=image_HW3,
        index=index,
        stamp_ns=stamp_ns,
        camera=camera,
        true_depth_m_HW=np.full((height, width), 2.2, np.float32) if truth else None,
        true_world_from_camera_44=true_44 if truth else None,
    )
    prediction = Prediction(
        index=index,
        stream_index=index,
        stamp_ns=stamp_ns,
        frame_id="camera",
        depth_m_HW=np.full((height, width), 2.0, np.float32),
        confidence_HW=confidence_HW,
        model_rays_hw6=np.zeros((rows, columns, 6), np.float32),
        world_from_camera_44=pose_44,
        fov_xy_rad=(1.2, 0.9),
        camera=camera,
        features_hwD=features_hwD,
        cls_D=np.zeros(16, np.float32),
    )
    return frame, prediction


@pytest.fixture(scope="session")
def step() -> Callable[..., tuple[Frame, Prediction]]:
    return make_step
