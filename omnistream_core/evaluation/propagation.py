"""Label propagation: masks of the first frame carried through a clip by the similarity of frozen patch features.

The protocol is that of DAVIS without any training (Jabri et al. 2020; DINO, Caron et al. 2021): each patch takes the
softmax-weighted labels of its most similar patches in the first and the last few frames, within a neighbourhood.

Shape letters: T frames, K masks (background first), N patches, D channels, M patches remembered, H W pixels, h w grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from omnistream_core.evaluation.metrics import boundary_accuracy, region_similarity

LEAST_SHARE = 0.01  # of the first frame's pixels, for an object to be followed


@dataclass(frozen=True, kw_only=True)
class PropagationConfig:
    """How labels travel.

    Attributes:
        area_px: images are resized to about this many pixels, whatever the model's own size: small objects need a fine
            grid, and figures of models of different sizes compare.
        recent: frames before the present one that are looked at beside the first.
        neighbours: most similar patches that vote.
        radius: how far away these may lie, as a share of the grid's longer side.
        temperature: of the softmax over their cosine similarities.
    """

    area_px: int = 288 * 384
    recent: int = 7
    neighbours: int = 5
    radius: float = 0.25
    temperature: float = 0.1


def propagate(features_TND: Tensor, grid_hw: tuple[int, int], first_KN: Tensor, config: PropagationConfig) -> Tensor:
    """(T, K, N) soft masks; those of the first frame are given."""
    unit_TND = F.normalize(features_TND, dim=-1)
    near_NN = neighbourhood(grid_hw, config.radius)
    masks = [first_KN]
    for t in range(1, len(unit_TND)):
        context = [0, *range(max(1, t - config.recent), t)]
        similarity_NM = (unit_TND[t] @ unit_TND[context].flatten(0, 1).T).masked_fill(
            ~near_NN.repeat(1, len(context)), -torch.inf
        )
        value_Nk, index_Nk = similarity_NM.topk(min(config.neighbours, similarity_NM.shape[1]), dim=1)
        weight_Nk = (value_Nk / config.temperature).softmax(dim=1)
        remembered_KM = torch.cat([masks[i] for i in context], dim=1)
        masks.append((remembered_KM[:, index_Nk] * weight_Nk).sum(-1))
    return torch.stack(masks)


def neighbourhood(grid_hw: tuple[int, int], radius: float) -> Tensor:
    """(N, N) bool: patches no further apart than ``radius`` times the grid's longer side."""
    rows, columns = torch.meshgrid(torch.arange(grid_hw[0]), torch.arange(grid_hw[1]), indexing="ij")
    place_N2 = torch.stack((rows, columns), dim=-1).flatten(0, 1).float()
    return torch.cdist(place_N2, place_N2) <= radius * max(grid_hw)


def mask_stack(instance_THW: Tensor) -> Tensor:
    """(T, K, H, W) float masks: all that is not followed, then each object of the first frame that is large enough."""
    ids, counts = instance_THW[0].unique(return_counts=True)
    least = LEAST_SHARE * instance_THW[0].numel()
    objects = [i for i, n in zip(ids.tolist(), counts.tolist(), strict=True) if i != 0 and n >= least]
    each = torch.stack([instance_THW == i for i in (-1, *objects)], dim=1).float()
    each[:, 0] = 1 - each.sum(1)
    return each


def to_grid(masks_TKHW: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """(T, K, N) share of each mask in each patch."""
    return F.adaptive_avg_pool2d(masks_TKHW, grid_hw).flatten(2)


def score(masks_TKN: Tensor, grid_hw: tuple[int, int], true_TKHW: Tensor) -> np.ndarray:
    """(objects, 2) J and F of soft masks of patches, brought to pixels bilinearly, the strongest winning."""
    maps = F.interpolate(masks_TKN.unflatten(2, grid_hw), true_TKHW.shape[-2:], mode="bilinear", align_corners=False)
    return j_and_f(maps.argmax(1).numpy(), true_TKHW.argmax(1).numpy(), true_TKHW.shape[1] - 1)


def still(instance_THW: Tensor) -> np.ndarray:
    """(objects, 2) J and F of masks that stay where they are in the first frame."""
    true_TKHW = mask_stack(instance_THW)
    labels_THW = true_TKHW.argmax(1).numpy()
    return j_and_f(np.broadcast_to(labels_THW[:1], labels_THW.shape), labels_THW, true_TKHW.shape[1] - 1)


def j_and_f(labels_THW: np.ndarray, true_THW: np.ndarray, objects: int) -> np.ndarray:
    """(objects, 2) J and F of every object (labels 1, 2, ...), each a mean over the frames after the first."""
    scores = [_object_scores(labels_THW[1:] == k, true_THW[1:] == k) for k in range(1, objects + 1)]
    return np.array(scores).reshape(-1, 2)


def _object_scores(masks_THW: np.ndarray, true_THW: np.ndarray) -> list[float]:
    pairs = list(zip(masks_THW, true_THW, strict=True))
    return [float(np.mean([measure(m, t) for m, t in pairs])) for measure in (region_similarity, boundary_accuracy)]
