"""Pinhole cameras of MuJoCo in OpenCV's convention (x right, y down, z forward; metres, pixels).

Pixel (row i, column j) covers [j, j+1) x [i, i+1): its centre is at u = j + 0.5, v = i + 0.5.
"""

from __future__ import annotations

import numpy as np

OPENGL_FROM_OPENCV_33 = np.diag([1.0, -1.0, -1.0])


def intrinsics(fovy_deg: float, height_px: int, width_px: int) -> np.ndarray:
    """(3, 3) float32 pinhole matrix K of a camera with a vertical field of view of ``fovy_deg``."""
    focal_px = 0.5 * height_px / np.tan(0.5 * np.deg2rad(fovy_deg))
    return np.array([[focal_px, 0, width_px / 2], [0, focal_px, height_px / 2], [0, 0, 1]], np.float32)


def world_from_camera(camera_position_m: np.ndarray, world_from_opengl_33: np.ndarray) -> np.ndarray:
    """(4, 4) float32 pose with OpenCV axes from MuJoCo's camera position (3,) and rotation (3, 3) or (9,)."""
    pose_44 = np.eye(4)
    pose_44[:3, :3] = np.reshape(world_from_opengl_33, (3, 3)) @ OPENGL_FROM_OPENCV_33
    pose_44[:3, 3] = camera_position_m
    return pose_44.astype(np.float32)


def project(points_m: np.ndarray, intrinsics_33: np.ndarray, world_from_camera_44: np.ndarray) -> np.ndarray:
    """(N, 3) world points, metres -> (N, 3): u and v in pixels, and depth along the optical axis in metres."""
    camera_from_world_44 = np.linalg.inv(world_from_camera_44.astype(np.float64))
    points_camera_N3 = points_m @ camera_from_world_44[:3, :3].T + camera_from_world_44[:3, 3]
    pixels_N3 = points_camera_N3 @ intrinsics_33.T.astype(np.float64)
    return np.column_stack([pixels_N3[:, :2] / pixels_N3[:, 2:], points_camera_N3[:, 2]])


def unproject(depth_m: np.ndarray, intrinsics_33: np.ndarray, world_from_camera_44: np.ndarray) -> np.ndarray:
    """(H, W) depth along the optical axis, metres -> (H, W, 3) world points, metres."""
    height, width = depth_m.shape
    u_HW, v_HW = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays_HW3 = np.stack([u_HW, v_HW, np.ones_like(u_HW)], -1) @ np.linalg.inv(intrinsics_33.astype(np.float64)).T
    points_HW3 = rays_HW3 * depth_m[..., None]
    return points_HW3 @ world_from_camera_44[:3, :3].T.astype(np.float64) + world_from_camera_44[:3, 3]
