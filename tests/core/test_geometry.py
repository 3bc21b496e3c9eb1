"""Camera geometry against scipy, evo and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omnistream_core import geometry
from omnistream_core.errors import ConfigError
from omnistream_core.types import CameraModel

PROPERTY = settings(deadline=None, max_examples=60, derandomize=True)
component = st.floats(-1, 1, allow_nan=False, width=32)
quaternions = st.tuples(component, component, component, component).filter(lambda q: sum(x * x for x in q) > 1e-3)
CAMERA = {"width_px": 64, "height_px": 48, "fx_px": 50.0, "fy_px": 60.0, "cx_px": 30.0, "cy_px": 25.0}


def random_poses(count: int, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return geometry.pose_matrix(torch.randn(count, 4, dtype=torch.float64), torch.randn(count, 3, dtype=torch.float64))


@PROPERTY
@given(q=quaternions)
def test_quaternions_are_scipys_and_come_back(q):
    rotation = pytest.importorskip("scipy.spatial.transform").Rotation
    tensor = torch.tensor(q, dtype=torch.float64)
    matrix = geometry.quaternion_to_matrix(tensor)
    w, x, y, z = q
    assert np.allclose(matrix, rotation.from_quat((x, y, z, w)).as_matrix(), atol=1e-12)
    back = geometry.matrix_to_quaternion(matrix)
    unit = tensor / tensor.norm()
    assert back[0] >= 0 and min((back - unit).norm(), (back + unit).norm()) < 1e-7


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("angle", [0.0, 1e-9, math.pi / 2, math.pi - 1e-7, math.pi])
def test_half_turns_come_back_too(axis, angle):
    q = torch.zeros(4)
    q[0], q[1 + axis] = math.cos(angle / 2), math.sin(angle / 2)
    matrix = geometry.quaternion_to_matrix(q)
    assert torch.allclose(geometry.quaternion_to_matrix(geometry.matrix_to_quaternion(matrix)), matrix, atol=1e-6)


def test_inverse_of_poses():
    poses = random_poses(20)
    assert torch.allclose(geometry.invert_pose(poses) @ poses, torch.eye(4).double().expand(20, 4, 4), atol=1e-12)
    assert torch.allclose(geometry.invert_pose(poses), torch.linalg.inv(poses), atol=1e-12)


@PROPERTY
@given(
    fov=st.tuples(st.floats(0.05, 3.0), st.floats(0.05, 3.0)), height=st.integers(1, 2000), width=st.integers(1, 2000)
)
def test_field_of_view_and_intrinsics(fov, height, width):
    angles = torch.tensor(fov, dtype=torch.float64)
    matrix = geometry.intrinsics_from_fov(angles, height, width)
    assert torch.allclose(geometry.fov_from_intrinsics(matrix, height, width), angles, rtol=1e-9)
    assert math.isclose(math.atan(width / 2 / float(matrix[0, 0])), fov[0] / 2, rel_tol=1e-9)
    assert matrix[:2, 2].tolist() == [width / 2, height / 2] and matrix[2].tolist() == [0, 0, 1]


def test_rays_and_points_pixel_by_pixel():
    """A pixel's point, unprojected by hand and projected back, is the pixel's centre again."""
    poses = random_poses(3)
    matrix = torch.tensor([[50.0, 0, 3.3], [0, 40.0, 2.1], [0, 0, 1]], dtype=torch.float64)
    depth = 1 + torch.rand(3, 4, 6, dtype=torch.float64)
    rays = geometry.ray_map(poses, matrix, 4, 6)
    points = geometry.points_from_rays(rays, depth)
    for n in range(3):
        for i in range(4):
            for j in range(6):
                d = float(depth[n, i, j])
                local = torch.tensor([(j + 0.5 - 3.3) / 50 * d, (i + 0.5 - 2.1) / 40 * d, d], dtype=torch.float64)
                world = poses[n, :3, :3] @ local + poses[n, :3, 3]
                assert torch.allclose(points[n, i, j], world, atol=1e-12)
                assert torch.allclose(rays[n, i, j, :3], poses[n, :3, 3])
    seen = geometry.invert_pose(poses)[:, None, None, :3, :3] @ (points - poses[:, None, None, :3, 3])[..., None]
    pixel = matrix @ seen
    u, v = (pixel[..., 0, 0] / pixel[..., 2, 0], pixel[..., 1, 0] / pixel[..., 2, 0])
    assert torch.allclose(u, (torch.arange(6) + 0.5).double().expand_as(u))
    assert torch.allclose(v, (torch.arange(4) + 0.5).double()[:, None].expand_as(v))


def test_ray_maps_of_several_clips_with_cameras_of_their_own():
    poses = random_poses(6).view(2, 3, 4, 4)
    matrices = torch.stack([torch.diag(torch.tensor([f, f, 1.0], dtype=torch.float64)) for f in (30, 60)])
    together = geometry.ray_map(poses, matrices[:, None], 5, 7)
    for b in range(2):
        for t in range(3):
            assert torch.allclose(together[b, t], geometry.ray_map(poses[b, t], matrices[b], 5, 7))


@PROPERTY
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(4, 40),
    scale=st.floats(0.05, 20),
    noise=st.sampled_from([0.0, 0.1]),
    flat=st.booleans(),
    with_scale=st.booleans(),
)
def test_alignment_is_evos_and_recovers_a_similarity(seed, count, scale, noise, flat, with_scale):
    torch.manual_seed(seed)
    source = torch.randn(count, 3, dtype=torch.float64)
    if flat:  # points in a plane leave room for a reflection, which is no rotation
        source[:, 2] = 0
    rotation = geometry.quaternion_to_matrix(torch.randn(4, dtype=torch.float64))
    shift = torch.randn(3, dtype=torch.float64)
    target = (scale if with_scale else 1) * source @ rotation.T + shift + noise * torch.randn_like(source)
    s, r, t = geometry.align_sim3(source, target, with_scale=with_scale)
    assert math.isclose(float(torch.linalg.det(r)), 1, abs_tol=1e-9)
    if not noise:
        assert torch.allclose(s * source @ r.T + t, target, atol=1e-8 * max(1, scale))
        assert torch.allclose(r, rotation, atol=1e-6)
    umeyama = pytest.importorskip("evo.core.geometry").umeyama_alignment
    evo_r, evo_t, evo_s = umeyama(source.T.numpy(), target.T.numpy(), with_scale)
    assert np.allclose(r, evo_r, atol=1e-7) and np.allclose(t, evo_t, atol=1e-6) and np.isclose(float(s), evo_s)


def test_alignment_of_points_without_spread():
    s, r, t = geometry.align_sim3(torch.ones(5, 3), torch.arange(15.0).view(5, 3))
    assert s == 1 and torch.equal(r, torch.eye(3)) and torch.allclose(t, torch.tensor([5.0, 6, 7]))


@given(width=st.integers(1, 500), height=st.integers(1, 500), u=st.floats(0, 1), v=st.floats(0, 1))
@PROPERTY
def test_a_resized_camera_sees_along_the_same_rays(width, height, u, v):
    camera = CameraModel(**CAMERA, distortion_model="plumb_bob", distortion=(0.1,))
    small = camera.resized(width, height)
    for side in (0, 1):
        size, share = ((64, width), u) if side == 0 else ((48, height), v)
        rays = [
            (share * pixels - c.matrix_33[side, 2]) / c.matrix_33[side, side]
            for pixels, c in zip(size, (camera, small), strict=True)
        ]
        assert math.isclose(*rays, abs_tol=1e-9)
    assert (small.width_px, small.height_px, small.distortion) == (width, height, (0.1,))


@pytest.mark.parametrize(
    ("name", "value"),
    [("width_px", 0), ("height_px", -3), ("fx_px", 0.0), ("fy_px", -1.0), ("cx_px", math.nan), ("fx_px", math.inf)],
)
def test_impossible_cameras_are_refused(name, value):
    with pytest.raises(ConfigError, match=str(value)):
        CameraModel(**(CAMERA | {name: value}))
