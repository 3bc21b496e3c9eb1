"""Pure functions of camera geometry. Conventions and shape letters: see ``omnistream_core.types``."""

from __future__ import annotations

import torch
from torch import Tensor


def quaternion_to_matrix(quaternion_X4: Tensor) -> Tensor:
    """(..., 4) wxyz, of any non-zero length, to (..., 3, 3) rotations."""
    w, x, y, z = torch.nn.functional.normalize(quaternion_X4, dim=-1).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def matrix_to_quaternion(rotation_X33: Tensor) -> Tensor:
    """(..., 3, 3) rotations to (..., 4) unit wxyz with w >= 0.

    Each of the four components can be found from the diagonal; the largest is, the others follow from it, so that no
    division is by a small number (Shepperd 1978).
    """
    m = rotation_X33
    m00, m11, m22 = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    d21, d02, d10 = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    s10, s20, s21 = m[..., 1, 0] + m[..., 0, 1], m[..., 2, 0] + m[..., 0, 2], m[..., 2, 1] + m[..., 1, 2]
    candidates_X44 = torch.stack(
        [
            torch.stack((1 + m00 + m11 + m22, d21, d02, d10), dim=-1),
            torch.stack((d21, 1 + m00 - m11 - m22, s10, s20), dim=-1),
            torch.stack((d02, s10, 1 - m00 + m11 - m22, s21), dim=-1),
            torch.stack((d10, s20, s21, 1 - m00 - m11 + m22), dim=-1),
        ],
        dim=-2,
    )
    best_X = candidates_X44.diagonal(dim1=-2, dim2=-1).argmax(-1)
    best_X4 = torch.take_along_dim(candidates_X44, best_X[..., None, None], dim=-2).squeeze(-2)
    unit_X4 = torch.nn.functional.normalize(best_X4, dim=-1)
    return torch.where(unit_X4[..., :1] < 0, -unit_X4, unit_X4)


def pose_matrix(quaternion_X4: Tensor, translation_X3: Tensor) -> Tensor:
    """(..., 4, 4) rigid transform from a wxyz quaternion and a translation."""
    top_X34 = torch.cat((quaternion_to_matrix(quaternion_X4), translation_X3[..., None]), dim=-1)
    bottom = top_X34.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*top_X34.shape[:-2], 1, 4)
    return torch.cat((top_X34, bottom), dim=-2)


def invert_pose(pose_X44: Tensor) -> Tensor:
    """Inverse of rigid transforms (..., 4, 4)."""
    rotation_X33 = pose_X44[..., :3, :3].mT
    translation_X3 = -(rotation_X33 @ pose_X44[..., :3, 3:]).squeeze(-1)
    top_X34 = torch.cat((rotation_X33, translation_X3[..., None]), dim=-1)
    return torch.cat((top_X34, pose_X44[..., 3:, :]), dim=-2)


def intrinsics_from_fov(fov_xy_rad_X2: Tensor, height_px: int, width_px: int) -> Tensor:
    """(..., 3, 3) pinhole intrinsics, pixels, with the principal point at the image's centre."""
    size = fov_xy_rad_X2.new_tensor([width_px, height_px])
    focal_X2 = size / (2 * torch.tan(fov_xy_rad_X2 / 2))
    matrix_X33 = fov_xy_rad_X2.new_zeros(*fov_xy_rad_X2.shape[:-1], 3, 3)
    matrix_X33[..., 0, 0], matrix_X33[..., 1, 1] = focal_X2.unbind(-1)
    matrix_X33[..., 0, 2], matrix_X33[..., 1, 2], matrix_X33[..., 2, 2] = width_px / 2, height_px / 2, 1.0
    return matrix_X33


def fov_from_intrinsics(matrix_X33: Tensor, height_px: int, width_px: int) -> Tensor:
    """(..., 2) horizontal and vertical field of view, radians, of an image of that size."""
    size = matrix_X33.new_tensor([width_px, height_px])
    focal_X2 = torch.stack((matrix_X33[..., 0, 0], matrix_X33[..., 1, 1]), dim=-1)
    return 2 * torch.atan(size / (2 * focal_X2))


def camera_directions(matrix_X33: Tensor, height_px: int, width_px: int) -> Tensor:
    """(..., H, W, 3) direction of every pixel centre in the camera's own axes, z = 1."""
    v_HW, u_HW = torch.meshgrid(
        torch.arange(height_px, dtype=matrix_X33.dtype, device=matrix_X33.device) + 0.5,
        torch.arange(width_px, dtype=matrix_X33.dtype, device=matrix_X33.device) + 0.5,
        indexing="ij",
    )
    fx, fy, cx, cy = (matrix_X33[..., i, j, None, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    x, y = (u_HW - cx) / fx, (v_HW - cy) / fy
    return torch.stack((x, y, torch.ones_like(x)), dim=-1)


def ray_map(world_from_camera_X44: Tensor, matrix_X33: Tensor, height_px: int, width_px: int) -> Tensor:
    """(..., H, W, 6) origin and direction of every pixel's ray in the world; a point is o + depth * d."""
    directions_XHW3 = camera_directions(matrix_X33, height_px, width_px)
    rotation_X33 = world_from_camera_X44[..., None, :3, :3]
    world_XHW3 = directions_XHW3 @ rotation_X33.mT
    origin_XHW3 = world_from_camera_X44[..., None, None, :3, 3].expand_as(world_XHW3)
    return torch.cat((origin_XHW3, world_XHW3), dim=-1)


def points_from_rays(rays_XHW6: Tensor, depth_XHW: Tensor) -> Tensor:
    """(..., H, W, 3) points P = o + D * d (OmniStream 2026)."""
    return rays_XHW6[..., :3] + depth_XHW[..., None] * rays_XHW6[..., 3:]


def align_sim3(source_X3: Tensor, target_X3: Tensor, *, with_scale: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Scale s, rotation R (3, 3) and translation t (3) that bring (n, 3) source points nearest to the targets.

    Minimises sum |s R source + t - target|^2 in closed form (Umeyama 1991). A source without any spread gets s = 1 and
    R = 1.
    """
    source_mean, target_mean = source_X3.mean(0), target_X3.mean(0)
    source_c, target_c = source_X3 - source_mean, target_X3 - target_mean
    variance = source_c.square().sum()
    if float(variance) < 1e-18:
        rotation, scale = torch.eye(3).to(source_X3), source_X3.new_ones(())
        return scale, rotation, target_mean - source_mean
    u, singular, vt = torch.linalg.svd(target_c.T @ source_c)
    sign = source_X3.new_tensor([1.0, 1.0, float(torch.sign(torch.linalg.det(u @ vt)))])
    rotation = u @ torch.diag(sign) @ vt
    scale = (singular * sign).sum() / variance if with_scale else source_X3.new_ones(())
    return scale, rotation, target_mean - scale * rotation @ source_mean
