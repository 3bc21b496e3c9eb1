"""Clips of the procedural world that no training has seen: some to fit probes on, others to judge them.

Shape letters: B clips, T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

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


@dataclass(frozen=True, kw_only=True)
class LabelledClips(ClipBatch):
    """Clips with the labels that probes are judged by, all there."""

    class_BTHW: Tensor
    normals_BT3HW: Tensor


def render(seeds: Sequence[int], world: WorldConfig, device: str = "cpu") -> LabelledClips:
    """One clip a seed with its labels, rendered a few at a time on ``device``, kept on the CPU."""
    world = replace(world, labels=("class", "normals"))
    starts = range(0, len(seeds), RENDERED_AT_ONCE)
    parts = [render_clips(seeds[i : i + RENDERED_AT_ONCE], world, device=device).mapped(Tensor.cpu) for i in starts]
    return LabelledClips(**vars(ClipBatch.joined(parts)))
