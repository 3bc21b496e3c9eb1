"""Clips of the procedural world that no training has seen: some to fit probes on, others to judge them.

Shape letters: B clips, T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from omnistream_core.errors import ConfigError
from omnistream_core.geometry import camera_directions
from omnistream_core.pretraining.world import HELD_OUT_SEED, ClipBatch, WorldConfig, render_clips

CLIPS_A_SIDE = 1_000_000  # seeds of one side of the split: the judged ones first, those to fit on right after
RENDERED_AT_ONCE = 8
LABELS: dict[str, Any] = {"labels": ("class", "normals")}  # asked of the renderer, besides what it always gives
Clips = TypeVar("Clips", bound=ClipBatch)


@dataclass(frozen=True, kw_only=True)
class Split:
    """Seeds of held-out worlds. The two ranges never overlap, whatever their lengths.

    Attributes:
        judge: seeds whose clips give the figures, from ``HELD_OUT_SEED`` on.
        fit: seeds whose clips probes are fitted on, from ``HELD_OUT_SEED + CLIPS_A_SIDE`` on.
    """

    judge: range
    fit: range


def split_seeds(*, judge: int, fit: int) -> Split:
    """The split with so many clips a side.

    Raises:
        ConfigError: more clips than a side has, or none.
    """
    for name, clips in (("judged", judge), ("fitted", fit)):
        if not 1 <= clips <= CLIPS_A_SIDE:
            raise ConfigError(f"{clips} {name} clips: 1 to {CLIPS_A_SIDE} are needed")
    first_fit = HELD_OUT_SEED + CLIPS_A_SIDE
    return Split(judge=range(HELD_OUT_SEED, HELD_OUT_SEED + judge), fit=range(first_fit, first_fit + fit))


@dataclass(frozen=True, kw_only=True)
class LabelledClips(ClipBatch):
    """Clips with all their labels; where depth is 0 the sky is seen, which has no normal.

    Attributes:
        class_BTHW: integer class of every pixel.
        normals_BT3HW: unit normals in camera axes, towards the camera.
    """

    class_BTHW: Tensor
    normals_BT3HW: Tensor


def render(seeds: Sequence[int], world: WorldConfig, device: str = "cpu") -> LabelledClips:
    """One clip a seed, rendered a few at a time on ``device``, kept on the CPU."""
    if hasattr(world, "labels"):
        world = replace(world, **LABELS)
    starts = range(0, len(seeds), RENDERED_AT_ONCE)
    parts = [render_clips(seeds[i : i + RENDERED_AT_ONCE], world, device=device) for i in starts]
    return _map(lambda *values: torch.cat(values), *(_labelled(_map(Tensor.cpu, part)) for part in parts))


def take(clips: Clips, chosen: slice) -> Clips:
    """Some of the clips."""
    return _map(lambda value: value[chosen], clips)


def normals_from_depth(depth_m_BTHW: Tensor, intrinsics_B33: Tensor) -> Tensor:
    """(B, T, 3, H, W) unit normals in camera axes, towards the camera, from each pixel's right and lower neighbour; the
    last row and column repeat those before them."""
    height, width = depth_m_BTHW.shape[-2:]
    points_BTHW3 = camera_directions(intrinsics_B33, height, width)[:, None] * depth_m_BTHW[..., None]
    right, down = points_BTHW3.diff(dim=3)[:, :, :-1], points_BTHW3.diff(dim=2)[..., :-1, :]
    inner_BT3hw = F.normalize(torch.linalg.cross(right, down).neg(), dim=-1).movedim(-1, 2)
    return F.pad(inner_BT3hw.flatten(0, 1), (0, 1, 0, 1), mode="replicate").unflatten(0, depth_m_BTHW.shape[:2])


def _labelled(clips: ClipBatch) -> LabelledClips:
    """Labels that the renderer does not give are made of those that it gives: normals of depth, room or object."""
    known = {name: value for name, value in vars(clips).items() if value is not None}
    if "normals_BT3HW" not in known:
        known["normals_BT3HW"] = normals_from_depth(clips.depth_m_BTHW, clips.intrinsics_B33)
    if "class_BTHW" not in known:
        known["class_BTHW"] = (clips.instance_BTHW > 0).to(torch.int16)
    return LabelledClips(**known)


def _map(function: Callable[..., Tensor], *batches: Clips) -> Clips:
    values = {f.name: [getattr(batch, f.name) for batch in batches] for f in fields(batches[0])}
    joined: dict[str, Any] = {n: None if v[0] is None else function(*v) for n, v in values.items()}
    return type(batches[0])(**joined)
