"""Metrics of streamed depth and pose, as pure functions of arrays.

Shape letters: X valid pixels of a whole sequence, T frames. Lengths in metres, angles in degrees.
"""

from __future__ import annotations

import numpy as np
import torch

from omnistream_core.geometry import align_sim3


def best_scale(predicted_X: np.ndarray, true_X: np.ndarray) -> float:
    """The one factor s that minimises sum of |s * predicted - true| / true: a weighted median of the ratios."""
    ratios = true_X / predicted_X
    order = np.argsort(ratios)
    cumulated = np.cumsum(1 / ratios[order], dtype=np.float64)
    return float(ratios[order][np.searchsorted(cumulated, cumulated[-1] / 2)])


def depth_errors(predicted_X: np.ndarray, true_X: np.ndarray) -> dict[str, float]:
    """``abs_rel`` = mean |s p - d| / d and ``delta_1.25`` = share with max(s p / d, d / s p) < 1.25, after one scale s
    for all pixels, which is returned as ``scale``."""
    scale = best_scale(predicted_X, true_X)
    ratio = scale * predicted_X / true_X
    return {
        "abs_rel": float(np.abs(ratio - 1).mean()),
        "delta_1.25": float((np.maximum(ratio, 1 / ratio) < 1.25).mean()),
        "scale": scale,
    }


def trajectory_errors(predicted_T44: np.ndarray, true_T44: np.ndarray) -> dict[str, float]:
    """Errors of a path of world_from_camera poses after a Sim(3) alignment of the positions (Umeyama 1991).

    Returns:
        ``ate_m``: root mean square distance of positions; ``ate_origin_m``: the same for staying at the origin;
        ``ate_straight_m``: the same for going straight on at constant speed, which needs no look at the images;
        ``rpe_t_m``, ``rpe_r_deg``: root mean square error of the motion from frame to frame (Sturm et al. 2012), with
        the alignment's scale; ``path_m``: length of the true path.
    """
    predicted, true = (torch.as_tensor(p, dtype=torch.float64) for p in (predicted_T44, true_T44))
    positions_T3 = true[:, :3, 3]
    straight_T3 = torch.arange(len(true), dtype=torch.float64)[:, None] * torch.tensor([0.0, 0.0, 1.0])
    scale = float(align_sim3(predicted[:, :3, 3], positions_T3)[0])
    step_t, step_r = _motion_errors(predicted, true, scale)
    return {
        "ate_m": _ate(predicted[:, :3, 3], positions_T3),
        "ate_origin_m": _ate(torch.zeros_like(positions_T3), positions_T3),
        "ate_straight_m": _ate(straight_T3, positions_T3),
        "rpe_t_m": _rms(step_t),
        "rpe_r_deg": _rms(torch.rad2deg(step_r)),
        "path_m": float(positions_T3.diff(dim=0).norm(dim=-1).sum()),
    }


def _ate(predicted_T3: torch.Tensor, true_T3: torch.Tensor) -> float:
    scale, rotation, translation = align_sim3(predicted_T3, true_T3)
    return _rms((scale * predicted_T3 @ rotation.T + translation - true_T3).norm(dim=-1))


def constant_per_pixel(true_THW: np.ndarray) -> np.ndarray:
    """(H, W) picture that minimises the summed relative error |p - d| / d over all frames: weighted medians."""
    order = np.argsort(true_THW, axis=0)
    cumulated = np.cumsum(np.take_along_axis(1 / true_THW, order, 0), axis=0)
    middle = (cumulated < cumulated[-1:] / 2).sum(axis=0, keepdims=True)
    return np.take_along_axis(np.take_along_axis(true_THW, order, 0), middle, 0)[0]


def _motion_errors(
    predicted_T44: torch.Tensor, true_T44: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Translation (metres) and rotation (radians) error of each step from one frame to the next."""
    predicted, true = (torch.linalg.inv(p[:-1]) @ p[1:] for p in (predicted_T44, true_T44))
    translation = (scale * predicted[:, :3, 3] - true[:, :3, 3]).norm(dim=-1)
    difference = predicted[:, :3, :3].mT @ true[:, :3, :3]
    trace = difference.diagonal(dim1=-2, dim2=-1).sum(-1)
    return translation, torch.arccos(((trace - 1) / 2).clamp(-1, 1))


def _rms(values: torch.Tensor) -> float:
    return float(values.square().mean().sqrt())
