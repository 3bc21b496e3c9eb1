"""Self-supervision as pure functions: a student that sees less agrees with a teacher that sees more.

Shape letters: V views, G the global ones among them (they come first), X images (frames of all clips), B clips,
M masked patches, N patches, K prototypes, D channels.

Sources: DINO, Caron et al. 2021; iBOT, Zhou et al. 2022; Sinkhorn-Knopp centring, Caron et al. 2020; KoLeo,
Sablayrolles et al. 2019; all of them together, DINOv2, Oquab et al. 2023; gram anchoring, DINOv3, Simeoni et al. 2025.

Across processes every sum runs over the whole batch, so that many processes compute what one would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SelfSupervisionWeights:
    """Weight of each term within the objective."""

    dino: float = 1.0
    ibot: float = 1.0
    koleo: float = 0.1
    gram: float = 1.0


@torch.no_grad()
def sinkhorn_knopp(logits_XK: Tensor, temperature: float, *, iterations: int = 3) -> Tensor:
    """Soft assignment of X rows to K prototypes (rows sum to 1) in which all prototypes are used alike.

    Iterations alternate between giving every prototype the same total and every row the total 1 (over all processes).
    """
    logits_XK = logits_XK.float() / temperature
    lowest_1 = logits_XK.new_full((1,), -1e30)  # a process may have no row at all
    largest = _largest(torch.cat((logits_XK.flatten(), lowest_1)).max())
    q_XK = (logits_XK - largest).exp()  # one factor for all: nothing overflows
    rows = _summed(q_XK.new_tensor(float(len(q_XK))))
    for _ in range(iterations):
        per_prototype_K = _summed(q_XK.sum(dim=0)).clamp(min=1e-12)
        q_XK = q_XK / per_prototype_K * (rows / q_XK.shape[1])
        q_XK = q_XK / q_XK.sum(dim=1, keepdim=True)
    return q_XK


def dino_loss(student_VXK: Tensor, teacher_GXK: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Mean cross-entropy between the teacher's assignment of each global view and the student's of every other view.

    Args:
        student_VXK: logits; the first G views are the teacher's.
        teacher_GXK: assignments, rows sum to 1.
        temperature: of the student's softmax.
    """
    log_p_VXK = (student_VXK.float() / temperature).log_softmax(-1)
    cross_GV = -torch.einsum("gxk,vxk->gv", teacher_GXK, log_p_VXK) / student_VXK.shape[1]
    other_GV = ~torch.eye(len(teacher_GXK), len(student_VXK), dtype=torch.bool, device=cross_GV.device)
    return cross_GV[other_GV].mean()


def ibot_loss(
    student_MK: Tensor, teacher_MK: Tensor, image_M: Tensor, images: int, *, temperature: float = 0.1
) -> Tensor:
    """Cross-entropy at masked patches: mean over the patches of an image, then over the ``images`` of the batch.

    Args:
        student_MK: logits at the masked patches of the masked view.
        teacher_MK: assignments at the same patches of the whole view, rows sum to 1.
        image_M: which image a patch belongs to.
        images: how many the mean runs over, those without a mask included, as DINOv2 does.
    """
    cross_M = -(teacher_MK * (student_MK.float() / temperature).log_softmax(-1)).sum(-1)
    count_M = torch.bincount(image_M, minlength=images)[image_M]
    return (cross_M / count_M).sum() / images


def koleo_loss(cls_TBD: Tensor) -> Tensor:
    """-log of the distance from each clip to the nearest other clip of the batch, on the sphere; mean over frames.

    Frames of one clip are alike and may be: only frames of the same time are compared. 0 for a single clip.
    """
    own_TBD = F.normalize(cls_TBD.float(), dim=-1)
    all_TAD = _gathered(own_TBD.transpose(0, 1)).transpose(0, 1)
    if all_TAD.shape[1] < 2:
        return own_TBD.sum() * 0
    first = _rank() * own_TBD.shape[1]
    with torch.no_grad():
        similar_TBA = own_TBD @ all_TAD.mT
        similar_TBA[:, :, first : first + own_TBD.shape[1]].diagonal(dim1=1, dim2=2).fill_(-2)
        nearest_TB = similar_TBA.argmax(-1)
    nearest_TBD = all_TAD.gather(1, nearest_TB[..., None].expand_as(own_TBD))
    return -((own_TBD - nearest_TBD).norm(dim=-1) + 1e-8).log().mean()


def gram_loss(student_XND: Tensor, anchor_XND: Tensor) -> Tensor:
    """Mean squared difference of the cosine similarities of all pairs of patches, student's against anchor's."""
    student, anchor = (F.normalize(x.float(), dim=-1) for x in (student_XND, anchor_XND))
    return F.mse_loss(student @ student.mT, anchor @ anchor.mT)


# ---- many processes ----


def _many() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _rank() -> int:
    return dist.get_rank() if _many() else 0


def _summed(value: Tensor) -> Tensor:
    if _many():
        dist.all_reduce(value)
    return value


def _largest(value: Tensor) -> Tensor:
    if _many():
        dist.all_reduce(value, dist.ReduceOp.MAX)
    return value


def _gathered(x_BTD: Tensor) -> Tensor:
    """Rows of all processes one after the other; gradients find their way back."""
    return torch.cat(list(_Gather.apply(x_BTD))) if _many() else x_BTD


class _Gather(torch.autograd.Function):
    """All processes' tensors; each gets back the sum of what all processes' losses say of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, ...]:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return tuple(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        summed = torch.stack(grads)
        dist.all_reduce(summed)
        return summed[dist.get_rank()]
