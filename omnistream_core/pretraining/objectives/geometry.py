"""Streaming geometry as a pure function. Shape letters: B clips, T frames, H W pixels.

Source: OmniStream 2026, streaming geometry: confidence-weighted L1 on depth and on its gradient minus alpha *
log(confidence);
L1 on rays, points and camera. Depth is compared as its logarithm here, so that a wall at 1 m and one at 10 m count
alike, and lengths are divided by the clip's mean depth where they are compared in metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from omnistream_core.geometry import (
    fov_from_intrinsics,
    matrix_to_quaternion,
    points_from_rays,
    ray_map,
)
from omnistream_core.pretraining.objectives.processes import mean_of
from omnistream_core.types import GeometryOutput


@dataclass(frozen=True, kw_only=True, eq=False)
class GeometryTruth:
    """What a clip really looks like.

    Attributes:
        depth_m_BTHW: z-depth in metres; 0, negative or not finite where unknown.
        world_from_camera_BT44: poses; the world is each clip's first camera.
        intrinsics_B33: pixels, the same for all frames of a clip.
    """

    depth_m_BTHW: Tensor
    world_from_camera_BT44: Tensor
    intrinsics_B33: Tensor


@dataclass(frozen=True, kw_only=True)
class GeometryWeights:
    """Weight of each term; ``alpha`` is that of the log-confidence, ``metric`` the share of the loss without free
    scale. ``translation_squared`` weighs the squared error: where the images leave the motion open, it asks for the
    mean of what is possible, while the absolute error asks for the median, which is to stay put. Confidence, at least
    1, strives for ``alpha`` over the error of log-depth: it tells of errors below ``alpha``."""

    depth: float = 1.0
    gradient: float = 0.5
    rays: float = 0.5
    points: float = 0.2
    quaternion: float = 2.0
    translation: float = 2.0
    translation_squared: float = 0.0
    fov: float = 0.5
    alpha: float = 0.5
    metric: float = 0.3


def geometry_losses(output: GeometryOutput, truth: GeometryTruth, weights: GeometryWeights) -> dict[str, Tensor]:
    """Every weighted term by name, scalars; the loss is their sum.

    Unknown depth is left out of every term that reads it.
    """
    valid = torch.isfinite(truth.depth_m_BTHW) & (truth.depth_m_BTHW > 0)
    depth = torch.where(valid, truth.depth_m_BTHW, 1.0)
    mean_B = _masked_mean(depth, valid, dims=(1, 2, 3))
    unit_B = torch.where(mean_B > 0, mean_B, 1.0)  # a clip without any known depth is compared in metres
    terms = depth_terms(output.depth_m_BTHW, output.confidence_BTHW, depth, valid, weights)
    terms |= ray_terms(output, truth, depth, valid, unit_B, weights)
    return terms | camera_terms(output, truth, unit_B, weights)


def ray_terms(
    output: GeometryOutput, truth: GeometryTruth, depth: Tensor, valid: Tensor, unit_B: Tensor, weights: GeometryWeights
) -> dict[str, Tensor]:
    """L1 of ray origin, ray direction and points, at every second pixel (the ray branch predicts no more)."""
    h, w = depth.shape[-2:]
    true_rays = ray_map(truth.world_from_camera_BT44, truth.intrinsics_B33[:, None], h, w)[..., ::2, ::2, :]
    rays, unit_B1111 = output.rays_BTHW6[..., ::2, ::2, :], unit_B[:, None, None, None, None]
    origin_error = (rays[..., :3] - true_rays[..., :3]).abs() / unit_B1111
    direction_error = (rays[..., 3:] - true_rays[..., 3:]).abs()
    points = points_from_rays(rays, output.depth_m_BTHW[..., ::2, ::2])
    point_error = (points - points_from_rays(true_rays, depth[..., ::2, ::2])).abs() / unit_B1111
    return {
        "rays": weights.rays * (origin_error.mean() + direction_error.mean()),
        "points": weights.points * _masked_mean(point_error.mean(-1).clamp(max=10), valid[..., ::2, ::2]),
    }


def depth_terms(
    predicted: Tensor, confidence: Tensor, depth: Tensor, valid: Tensor, weights: GeometryWeights
) -> dict[str, Tensor]:
    """Confidence-weighted L1 of log-depth with one free scale a clip (and a share without), and of its gradient."""
    error = predicted.log() - depth.log()
    with torch.no_grad():
        shift_B = error.masked_fill(~valid, float("nan")).flatten(1).nanmedian(dim=1).values.nan_to_num()
    free = (error - shift_B[:, None, None, None]).abs()
    mixed = (1 - weights.metric) * free + weights.metric * error.abs()
    weighted = confidence * mixed - weights.alpha * confidence.log()
    steps = []
    for dim in (-1, -2):
        both = valid.narrow(dim, 1, valid.shape[dim] - 1) & valid.narrow(dim, 0, valid.shape[dim] - 1)
        steps.append(_masked_mean(error.diff(dim=dim).abs(), both))
    return {
        "depth": weights.depth * _masked_mean(weighted, valid),
        "gradient": weights.gradient * (steps[0] + steps[1]),
    }


def camera_terms(
    output: GeometryOutput, truth: GeometryTruth, unit_B: Tensor, weights: GeometryWeights
) -> dict[str, Tensor]:
    """L1 of quaternion (either sign), translation in units of mean depth, and field of view."""
    h, w = truth.depth_m_BTHW.shape[-2:]
    quaternion = matrix_to_quaternion(truth.world_from_camera_BT44[..., :3, :3])
    sign = torch.where((output.quaternion_BT4 * quaternion).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    translation_error = (output.translation_m_BT3 - truth.world_from_camera_BT44[..., :3, 3]) / unit_B[:, None, None]
    fov = fov_from_intrinsics(truth.intrinsics_B33, h, w)[:, None]
    return {
        "quaternion": weights.quaternion * (output.quaternion_BT4 - sign * quaternion).abs().mean(),
        "translation": weights.translation * translation_error.abs().mean()
        + weights.translation_squared * translation_error.square().sum(-1).mean(),
        "fov": weights.fov * (output.fov_xy_rad_BT2 - fov).abs().mean(),
    }


def _masked_mean(values: Tensor, valid: Tensor, dims: tuple[int, ...] | None = None) -> Tensor:
    """Mean over valid entries, of all (and of all processes) or along ``dims``; 0 where there are none."""
    kept = torch.where(valid, values, torch.zeros_like(values))
    if dims is None:
        return mean_of(kept.sum(), valid.sum())
    return kept.sum(dims) / valid.sum(dims).clamp(min=1)
