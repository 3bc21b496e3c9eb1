"""Motion order: the same frames shown forwards and backwards, told apart from frozen features.

A clip of a world without an arrow of time has no right order of itself, so the order is that of the camera: each clip
is shown as its camera advances along its own view, and as it retreats. Either way the frames are the same, so whoever
sees them as a bag without order is right half of the time, whatever they show. The probe is attentive: one learned
query a head pools all tokens of all frames, without any sign of their time, and a linear layer decides; the order has
to be in the features.

Shape letters: B clips, O = 2 orders (advancing, retreating), T frames, S tokens of a frame, M = T * S, D channels, H
heads of the probe.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnistream_core.evaluation.held_out import LabelledClips

MOVING_SHARE = 0.5  # of the clips, those whose camera travels furthest: of the others order could not be seen
HEADS, STEPS, LEARNING_RATE, WEIGHT_DECAY = 4, 300, 3e-3, 0.1


def travel(clips: LabelledClips) -> Tensor:
    """(B,) how far the camera gets along the view of its middle frame, over the clip's median depth; negative where it
    retreats."""
    pose_BT44 = clips.world_from_camera_BT44
    view_B3 = pose_BT44[:, pose_BT44.shape[1] // 2, :3, 2]
    moved_B = ((pose_BT44[:, -1, :3, 3] - pose_BT44[:, 0, :3, 3]) * view_B3).sum(-1)
    return moved_B / torch.stack([depth[depth > 0].median() for depth in clips.depth_m_BTHW])


def moving(travel_B: Tensor) -> Tensor:
    """Indices of the clips whose camera travels furthest, in their order."""
    return travel_B.abs().topk(max(1, round(MOVING_SHARE * len(travel_B)))).indices.sort().values


def both_orders(travel_B: Tensor, recorded_BTSD: Tensor, reversed_BTSD: Tensor) -> Tensor:
    """(B, O, M, D) tokens as shown advancing and as shown retreating, from those in the order of the recording and
    those of the same frames in the opposite order, each encoded causally in the order shown."""
    recorded_BMD, reversed_BMD = recorded_BTSD.flatten(1, 2), reversed_BTSD.flatten(1, 2)
    advancing_B11 = (travel_B > 0)[:, None, None]
    advancing_BMD = torch.where(advancing_B11, recorded_BMD, reversed_BMD)
    retreating_BMD = torch.where(advancing_B11, reversed_BMD, recorded_BMD)
    return torch.stack((advancing_BMD, retreating_BMD), dim=1)


class AttentiveProbe(nn.Module):
    """Attention pooling by one query a head, then one linear layer to one logit."""

    def __init__(self, width: int, heads: int = HEADS) -> None:
        super().__init__()
        self.query_HD = nn.Parameter(torch.zeros(heads, width))
        self.out = nn.Linear(heads * width, 1)
        nn.init.normal_(self.query_HD, std=width**-0.5)
        nn.init.zeros_(self.out.weight)

    def forward(self, tokens_BMD: Tensor) -> Tensor:
        """(B,) logits."""
        weight_BMH = (tokens_BMD @ self.query_HD.T).softmax(dim=1)
        return self.out((weight_BMH.mT @ tokens_BMD).flatten(1))[:, 0]


def order_accuracy(fit_BOMD: Tensor, judge_BOMD: Tensor, *, seed: int = 0) -> float:
    """Share of shown clips whose order the probe tells; fitted by a few hundred steps of AdamW on all of ``fit``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = AttentiveProbe(fit_BOMD.shape[-1])
    mean_D, std_D = fit_BOMD.mean((0, 1, 2)), fit_BOMD.std((0, 1, 2)) + 1e-6
    fit_XMD, judge_XMD = (((side - mean_D) / std_D).flatten(0, 1) for side in (fit_BOMD, judge_BOMD))
    fit_X, judge_X = (_advancing(side) for side in (fit_BOMD, judge_BOMD))
    solver = torch.optim.AdamW(probe.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(solver, STEPS)
    for _ in range(STEPS):
        solver.zero_grad()
        F.binary_cross_entropy_with_logits(probe(fit_XMD), fit_X).backward()
        solver.step()
        schedule.step()
    with torch.no_grad():
        return float(((probe(judge_XMD) > 0) == (judge_X > 0)).float().mean())


def _advancing(tokens_BOMD: Tensor) -> Tensor:
    return torch.tensor([1.0, 0.0]).repeat(len(tokens_BOMD))
