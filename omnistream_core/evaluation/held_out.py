"""Clips of the procedural world that no training has seen: some to fit probes on, others to judge them.

Shape letters: B clips, T frames, H W pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from omnistream_core.errors import ConfigError
from omnistream_core.pretraining.world import HELD_OUT_SEED, ClipBatch, WorldConfig, render_clips

CLIPS_A_SIDE = 1_000_000  # seeds of one side of the split: the judged ones first, those to fit on right after
RENDERED_AT_ONCE = 8


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


@dataclass(frozen=True)
class LabelledClips(ClipBatch):
    """INTERIM until the world renders classes and normals itself."""

    class_BTHW: torch.Tensor
    normals_BT3HW: torch.Tensor


def interim(clips: ClipBatch) -> LabelledClips:
    """INTERIM."""
    d = clips.depth_m_BTHW
    k = clips.intrinsics_B33
    from omnistream_core.geometry import camera_directions

    rays = camera_directions(k, d.shape[2], d.shape[3])[:, None]
    p = rays * d[..., None]
    du, dv = p.diff(dim=3)[:, :, :, :], p.diff(dim=2)
    n = torch.zeros_like(p)
    n[:, :, :-1, :-1] = torch.linalg.cross(dv[:, :, :, :-1], du[:, :, :-1])
    n[:, :, -1], n[:, :, :, -1] = n[:, :, -2], n[:, :, :, -2]
    n = torch.nn.functional.normalize(n, dim=-1)
    classes = torch.zeros_like(clips.instance_BTHW)
    for b in range(len(d)):
        for i in clips.instance_BTHW[b].unique().tolist():
            if i:
                m = clips.instance_BTHW[b] == i
                size = float((m * d[b] ** 2).flatten(1).sum(1).max() / float(k[b, 0, 0]) ** 2)
                classes[b][m] = 1 + int(size > 0.1) + int(size > 0.4)
    return LabelledClips(**vars(clips), class_BTHW=classes, normals_BT3HW=n.movedim(-1, 2).contiguous())


def render(seeds: Sequence[int], world: WorldConfig, device: str = "cpu") -> LabelledClips:
    """One clip a seed, rendered a few at a time on ``device``, kept on the CPU."""
    starts = range(0, len(seeds), RENDERED_AT_ONCE)
    return interim(join([on_cpu(render_clips(seeds[i : i + RENDERED_AT_ONCE], world, device=device)) for i in starts]))


def on_cpu(clips: ClipBatch) -> ClipBatch:
    """The same clips with their tensors on the CPU."""
    return _map(lambda value: value.cpu(), clips)


def join(batches: Sequence[ClipBatch]) -> ClipBatch:
    """Clips of several batches as one."""
    return _map(lambda *values: torch.cat(values), *batches)


def _map(function: Callable[..., torch.Tensor], *batches: ClipBatch) -> ClipBatch:
    fields = [f.name for f in dataclasses.fields(ClipBatch)]
    parts = {name: [getattr(batch, name) for batch in batches] for name in fields}
    return ClipBatch(**{n: function(*v) if isinstance(v[0], torch.Tensor) else v[0] for n, v in parts.items()})


def take(clips: ClipBatch, chosen: slice) -> ClipBatch:
    """Some of the clips."""
    return _map(lambda value: value[chosen], clips)
