"""Metrics as pure functions of arrays.

Shape letters: X samples (valid pixels of a whole sequence, answers, ...), T frames, C classes, H W pixels. Lengths in
metres, angles in degrees.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from omnistream_core.geometry import align_sim3

BOUNDARY_TOLERANCE = 0.008  # of the image's diagonal, rounded up to whole pixels, as DAVIS has it
RELATIVE_ACCURACY_LEVELS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))  # 0.5, 0.55, ..., 0.95


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


def ate_ratios(errors: list[dict[str, float]]) -> dict[str, float]:
    """``ate_ratio`` and ``ate_straight_ratio``: summed over clips, the error of positions over that of staying at the
    origin and over that of going straight on without looking, each aligned by its own Sim(3)."""
    total = {key: sum(e[key] for e in errors) for key in ("ate_m", "ate_origin_m", "ate_straight_m")}
    return {
        "ate_ratio": total["ate_m"] / max(total["ate_origin_m"], 1e-9),
        "ate_straight_ratio": total["ate_m"] / max(total["ate_straight_m"], 1e-9),
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


def mean_iou(confusion_CC: np.ndarray) -> float:
    """Mean intersection over union of the classes that occur in the truth; rows of the matrix are the truth."""
    hits_C, true_C = np.diag(confusion_CC), confusion_CC.sum(axis=1)
    union_C = true_C + confusion_CC.sum(axis=0) - hits_C
    return float((hits_C[true_C > 0] / union_C[true_C > 0]).mean())


def confusion(predicted_X: np.ndarray, true_X: np.ndarray, classes: int) -> np.ndarray:
    """(C, C) counts, truth by row, prediction by column."""
    return np.bincount(true_X * classes + predicted_X, minlength=classes**2).reshape(classes, classes)


def angular_errors_deg(predicted_X3: np.ndarray, true_X3: np.ndarray) -> np.ndarray:
    """(X,) angle between directions of any length, degrees."""
    cross_X = np.linalg.norm(np.cross(predicted_X3, true_X3), axis=-1)
    return np.degrees(np.arctan2(cross_X, (predicted_X3 * true_X3).sum(-1)))


def region_similarity(mask_HW: np.ndarray, true_HW: np.ndarray) -> float:
    """J of DAVIS (Perazzi et al. 2016): intersection over union of two masks; 1 where both are empty."""
    union = np.logical_or(mask_HW, true_HW).sum()
    return 1.0 if union == 0 else float(np.logical_and(mask_HW, true_HW).sum() / union)


def boundary_accuracy(mask_HW: np.ndarray, true_HW: np.ndarray) -> float:
    """F of DAVIS (Perazzi et al. 2016): F-measure of the boundary pixels that lie within ``BOUNDARY_TOLERANCE`` of the
    other mask's boundary; 1 where neither has a boundary, 0 where one of the two has none."""
    ours_HW, theirs_HW = boundary(mask_HW), boundary(true_HW)
    if not ours_HW.any() and not theirs_HW.any():
        return 1.0
    if not ours_HW.any() or not theirs_HW.any():
        return 0.0
    reach_px = math.ceil(BOUNDARY_TOLERANCE * math.hypot(*mask_HW.shape))
    precision = float((ours_HW & _dilated(theirs_HW, reach_px)).sum() / ours_HW.sum())
    recall = float((theirs_HW & _dilated(ours_HW, reach_px)).sum() / theirs_HW.sum())
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def boundary(mask_HW: np.ndarray) -> np.ndarray:
    """Pixels that differ from their right, lower or lower right neighbour, one pixel wide; the image's border is no
    boundary."""
    mask = mask_HW.astype(bool)
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask != padded[:-1, 1:]) | (mask != padded[1:, :-1]) | (mask != padded[1:, 1:])


def _dilated(mask_HW: np.ndarray, radius_px: int) -> np.ndarray:
    """Every pixel within ``radius_px`` of the mask."""
    height, width = mask_HW.shape
    padded, out = np.pad(mask_HW, radius_px), np.zeros_like(mask_HW)
    for dy in range(-radius_px, radius_px + 1):
        for dx in range(-radius_px, radius_px + 1):
            if dy * dy + dx * dx <= radius_px**2:
                out |= padded[radius_px + dy :, radius_px + dx :][:height, :width]
    return out


def mean_relative_accuracy(predicted_X: np.ndarray, true_X: np.ndarray) -> float:
    """MRA of numerical answers (Yang et al. 2025, VSI-Bench): the share of ``RELATIVE_ACCURACY_LEVELS`` theta with
    |p - y| / |y| < 1 - theta, averaged over answers; an answer that is not a number is wrong at every level, and a true
    zero is met by nothing but zero."""
    error_X = np.abs(predicted_X - true_X) / np.maximum(np.abs(true_X), 1e-9)
    error_X = np.where(np.isnan(error_X), np.inf, error_X)
    return float(np.mean([(error_X < 1 - theta).mean() for theta in RELATIVE_ACCURACY_LEVELS]))


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
