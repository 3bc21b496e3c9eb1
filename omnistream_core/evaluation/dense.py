"""Linear probes of patch features: classes, depth, normals of every pixel, and the pose of every frame.

Each probe is a function of the two sides of the split. A probe of patches is one linear layer for all, with a bias for
each place in the image, so that the features are credited with what they add to knowing where in the image one is.
Predictions of patches are brought to pixels bilinearly and judged there.

Shape letters: B clips, T frames, F labelled frames, S frame tokens, N patches, D channels, C classes, K outputs, X
samples, H W pixels, h w patch grid.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from omnistream_core.evaluation.features import LABELLED, ClipFeatures
from omnistream_core.evaluation.held_out import LabelledClips
from omnistream_core.evaluation.linear import Linear, fit_ridge, fit_softmax
from omnistream_core.evaluation.metrics import (
    angular_errors_deg,
    ate_ratios,
    confusion,
    depth_errors,
    mean_iou,
    trajectory_errors,
)
from omnistream_core.geometry import matrix_to_quaternion, pose_matrix


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """One side of the split: clips and the frozen features of them."""

    clips: LabelledClips
    features: ClipFeatures


def place_only(side: Side) -> Side:
    """The side without any feature: what a probe reaches that does not look."""
    return replace(side, features=replace(side.features, patches_BFND=side.features.patches_BFND[..., :0]))


def depth(fit: Side, judge: Side) -> dict[str, float]:
    """``probe_abs_rel``, ``probe_delta_1.25``: log-depth by ridge regression, one scale a clip, mean over clips."""
    log_depth_BF1HW = _depth(fit).clamp_min(1e-3).log()[:, :, None]
    probe = fit_ridge(*_known(fit, log_depth_BF1HW))
    errors = []
    for b, true_FHW in enumerate(_depth(judge)):
        known = true_FHW > 0
        predicted_X = _pixels(probe, judge, b)[:, 0].exp()[known]
        errors.append(depth_errors(predicted_X.numpy(), true_FHW[known].numpy()))
    return {f"probe_{key}": float(np.mean([e[key] for e in errors])) for key in ("abs_rel", "delta_1.25")}


def normals(fit: Side, judge: Side) -> dict[str, float]:
    """``normals_deg``: mean angle between true and predicted normal (ridge regression), degrees, mean over clips."""
    probe = fit_ridge(*_known(fit, _labelled(fit.clips.normals_BT3HW).float()))
    errors = []
    for b, true_F3HW in enumerate(_labelled(judge.clips.normals_BT3HW).float()):
        known = _depth(judge)[b] > 0
        predicted_X3, true_X3 = (maps.movedim(1, -1)[known] for maps in (_pixels(probe, judge, b), true_F3HW))
        errors.append(angular_errors_deg(predicted_X3.numpy(), true_X3.numpy()).mean())
    return {"normals_deg": float(np.mean(errors))}


def segmentation(fit: Side, judge: Side) -> dict[str, float]:
    """``segmentation_miou`` over the classes that occur, and ``segmentation_accuracy`` over pixels: logistic regression
    on the share of each class in a patch, logits brought to pixels."""
    fit_BFHW, judge_BFHW = (_labelled(side.clips.class_BTHW).long() for side in (fit, judge))
    classes = int(max(fit_BFHW.max(), judge_BFHW.max())) + 1
    shares_XC = torch.cat([_pooled(_one_hot(clip_FHW, classes), fit) for clip_FHW in fit_BFHW.split(1)])
    probe = fit_softmax(_samples(fit), shares_XC)
    counts_CC = np.zeros((classes, classes), np.int64)
    for b, true_FHW in enumerate(judge_BFHW):
        guess_FHW = _pixels(probe, judge, b).argmax(1)
        counts_CC += confusion(guess_FHW.numpy().ravel(), true_FHW.numpy().ravel(), classes)
    accuracy = float(np.trace(counts_CC) / counts_CC.sum())
    return {"segmentation_miou": mean_iou(counts_CC), "segmentation_accuracy": accuracy}


def pose(fit: Side, judge: Side) -> dict[str, float]:
    """``probe_ate_ratio`` and others as ``ate_ratios`` has them: translation (metres) and quaternion of each frame in
    the world of the clip's first, by ridge regression from the frame tokens."""
    probe = fit_ridge(fit.features.frame_BTSD.flatten(2).flatten(0, 1), _pose_vector(fit.clips).flatten(0, 1))
    vector_BT7 = probe(judge.features.frame_BTSD.flatten(2)).double()
    predicted_BT44 = pose_matrix(vector_BT7[..., 3:], vector_BT7[..., :3])
    pairs = zip(predicted_BT44.numpy(), judge.clips.world_from_camera_BT44.numpy(), strict=True)
    ratios = ate_ratios([trajectory_errors(p, t) for p, t in pairs])
    return {f"probe_{key}": value for key, value in ratios.items()}


def _pose_vector(clips: LabelledClips) -> Tensor:
    pose_BT44 = clips.world_from_camera_BT44
    return torch.cat((pose_BT44[..., :3, 3], matrix_to_quaternion(pose_BT44[..., :3, :3])), dim=-1)


def _labelled(maps_BT: Tensor) -> Tensor:
    return maps_BT[:, LABELLED]


def _depth(side: Side) -> Tensor:
    return _labelled(side.clips.depth_m_BTHW)


def _known(side: Side, maps_BFKHW: Tensor) -> tuple[Tensor, Tensor]:
    """Features and mean labels of the patches that are known, that is no sky, for the greater part."""
    known_BF1HW = (_depth(side) > 0)[:, :, None]
    share_X1 = _pooled(known_BF1HW.float(), side)
    mean_XK = _pooled(maps_BFKHW.where(known_BF1HW, 0), side) / share_X1.clamp_min(1e-6)
    chosen_X = share_X1[:, 0] > 0.5
    return _samples(side)[chosen_X], mean_XK[chosen_X]


def _samples(side: Side) -> Tensor:
    return _with_place(side.features.patches_BFND).flatten(0, 2)


def _with_place(patches_BFND: Tensor) -> Tensor:
    """Which of the N places a patch stands at, one channel each, after its features."""
    b, f, n, _ = patches_BFND.shape
    return torch.cat((patches_BFND, torch.eye(n).expand(b, f, n, n)), dim=-1)


def _pooled(maps_BFKHW: Tensor, side: Side) -> Tensor:
    """(X, K) means of the maps over each patch, in the order of ``_samples``."""
    pooled_XKhw = F.adaptive_avg_pool2d(maps_BFKHW.flatten(0, 1), side.features.grid_hw)
    return pooled_XKhw.flatten(2).mT.flatten(0, 1)


def _one_hot(class_BFHW: Tensor, classes: int) -> Tensor:
    return F.one_hot(class_BFHW, classes).movedim(-1, 2).float()


def _pixels(probe: Linear, side: Side, b: int) -> Tensor:
    """(F, K, H, W) predictions of one clip."""
    maps_FKhw = probe(_with_place(side.features.patches_BFND[b : b + 1])[0]).mT.unflatten(2, side.features.grid_hw)
    size_hw = side.clips.depth_m_BTHW.shape[-2:]
    return F.interpolate(maps_FKhw, size=size_hw, mode="bilinear", align_corners=False)
