"""What a step is trained on. Shape letters: B clips, T frames, H W pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from omnistream_core.pretraining.world import ClipBatch, Description


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Clips with what is said of them.

    Attributes:
        clips: B clips; depth is 0 where unknown.
        descriptions: one for each clip, empty where nobody asked for words.
    """

    clips: ClipBatch
    descriptions: tuple[Description, ...] = ()


def stacked(parts: Sequence[tuple[Batch, int]]) -> Batch:
    """One batch of single clips picked from others: (batch, which of its clips)."""

    def column(name: str) -> Tensor | None:
        values = [getattr(batch.clips, name) for batch, _ in parts]
        if any(v is None for v in values):
            return None
        return torch.stack([v[b] for v, (_, b) in zip(values, parts, strict=True)])

    words = [batch.descriptions[b] for batch, b in parts if batch.descriptions]
    return Batch(
        clips=ClipBatch(**{f.name: column(f.name) for f in fields(ClipBatch)}),  # type: ignore[arg-type]
        descriptions=tuple(words) if len(words) == len(parts) else (),
    )


def frames_of(clips: ClipBatch, index_T: Sequence[int]) -> ClipBatch:
    """The same clips with only these frames; their world is the first camera that is left."""
    kept = list(index_T)
    poses_BT44 = clips.world_from_camera_BT44[:, kept]
    moved = {"world_from_camera_BT44": torch.linalg.inv(poses_BT44[:, :1]) @ poses_BT44}
    per_frame = {f.name: getattr(clips, f.name) for f in fields(ClipBatch) if "_BT" in f.name}
    moved |= {k: v[:, kept] for k, v in per_frame.items() if k not in moved and v is not None}
    whole = {f.name: getattr(clips, f.name) for f in fields(ClipBatch)}
    return ClipBatch(**(whole | moved))
