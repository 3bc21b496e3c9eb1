"""k-nearest neighbours of objects, without any training.

Shape letters: B clips, F labelled frames, N patches, D channels, X objects, H W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from omnistream_core.evaluation.dense import Side
from omnistream_core.evaluation.features import LABELLED

NEIGHBOURS = 10
TEMPERATURE = 0.07  # of the votes' weights, as Wu et al. 2018 and DINO have it
LEAST_SHARE = 0.005  # of the pixels of its frames, for an object to count


def object_class(sides: list[Side]) -> float:
    """Top-1 accuracy over the objects of all clips of both sides: nothing is fitted, each is judged by other clips."""
    return top1(*_all_objects(sides))


def commonest_class(sides: list[Side]) -> float:
    """Top-1 accuracy of always naming the commonest class."""
    _, label_X, _ = _all_objects(sides)
    return float((label_X == label_X.mode().values).float().mean())


def top1(feature_XD: Tensor, label_X: Tensor, clip_X: Tensor, k: int = NEIGHBOURS) -> float:
    """Share of samples whose class is that of their k nearest (cosine) samples of other clips, votes weighted."""
    unit_XD = F.normalize(feature_XD, dim=-1)
    similarity_XX = (unit_XD @ unit_XD.T).masked_fill(clip_X[:, None] == clip_X, -torch.inf)
    near_Xk, index_Xk = similarity_XX.topk(min(k, len(label_X)), dim=1)
    votes_XC = torch.zeros(len(label_X), int(label_X.max()) + 1)
    votes_XC.scatter_add_(1, label_X[index_Xk], (near_Xk / TEMPERATURE).exp())
    return float((votes_XC.argmax(1) == label_X).float().mean())


def _all_objects(sides: list[Side]) -> tuple[Tensor, Tensor, Tensor]:
    """Feature (X, D), class (X,) and clip (X,) of every object."""
    parts = [_objects(side, b) for side in sides for b in range(len(side.clips.instance_BTHW))]
    feature_XD, label_X = (torch.cat([part[i] for part in parts]) for i in range(2))
    clip_X = torch.cat([torch.full((len(part[1]),), i) for i, part in enumerate(parts)])
    return feature_XD, label_X, clip_X


def _objects(side: Side, b: int) -> tuple[Tensor, Tensor]:
    """Mean feature and class of every object of a clip, patches weighted by how much of them it covers."""
    instance_FHW = side.clips.instance_BTHW[b, LABELLED].long()
    class_FHW = side.clips.class_BTHW[b, LABELLED].long()
    patches_FND = side.features.patches_BFND[b]
    features, labels = [], []
    for number in instance_FHW.unique().tolist():
        mask_FHW = instance_FHW == number
        if number == 0 or float(mask_FHW.float().mean()) < LEAST_SHARE:
            continue
        weight_FN = F.adaptive_avg_pool2d(mask_FHW[:, None].float(), side.features.grid_hw).flatten(1)
        features.append((weight_FN[..., None] * patches_FND).sum((0, 1)) / weight_FN.sum())
        labels.append(class_FHW[mask_FHW].mode().values)
    width = patches_FND.shape[-1]
    return (torch.stack(features), torch.stack(labels)) if labels else (torch.empty(0, width), torch.empty(0).long())
