"""Operations and bytes of one live frame, stage by stage, from the configuration alone.

A multiplication with an addition counts as two operations. Bytes are those that must pass between memory and processor
when nothing but the current stage's operands stays near it: weights once, what a stage reads and writes of activations
once, keys and values of every visible frame once. Letters: P tokens of a frame, S tokens visible, C width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from omnistream_core.config import BackboneConfig


@dataclass(frozen=True, kw_only=True)
class Work:
    """Operations and bytes."""

    flops: float
    bytes: float

    def __add__(self, other: Work) -> Work:
        return Work(flops=self.flops + other.flops, bytes=self.bytes + other.bytes)

    def floor_s(self, ceilings: Ceilings) -> float:
        """Shortest time on a machine of these ceilings: the longer of computing and moving."""
        return max(self.flops / ceilings.flops_per_s, self.bytes / ceilings.bytes_per_s)


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """The best that a machine does in one dtype: a large matrix product, and a large copy (read plus written)."""

    flops_per_s: float
    bytes_per_s: float


def frame_work(
    config: BackboneConfig,
    *,
    grid_hw: tuple[int, int],
    visible_frames: int,
    dtype: torch.dtype,
    cache_dtype: torch.dtype | None = None,
    streams: int = 1,
) -> dict[str, Work]:
    """Work of each stage for the next frame of ``streams`` streams that see so many frames, the new one included."""
    p, c, size = config.tokens_per_frame(grid_hw), config.width, dtype.itemsize
    patches, hidden, depth = grid_hw[0] * grid_hw[1], round(config.width * config.mlp_ratio), config.depth
    cached = (cache_dtype or dtype).itemsize
    visible = visible_frames * p

    def linear(rows: int, n_in: int, n_out: int) -> Work:
        moved = n_in * n_out + streams * rows * (n_in + n_out)
        return Work(flops=2.0 * streams * rows * n_in * n_out, bytes=float(size * moved))

    def times(number: int, work: Work) -> Work:
        return Work(flops=number * work.flops, bytes=number * work.bytes)

    attention = Work(
        flops=4.0 * streams * p * visible * c, bytes=float(streams * c * (2 * cached * visible + 2 * size * p))
    )
    return {
        "patch embed": linear(patches, 3 * config.patch_px**2, c),
        "norms": times(2 * depth, Work(flops=0.0, bytes=2.0 * size * streams * p * c)),
        "qkv": times(depth, linear(p, c, 3 * c)),
        "rope + cache write": times(
            depth, Work(flops=0.0, bytes=float(streams * p * c * (3 * size + size + 2 * cached)))
        ),
        "attention": times(depth, attention),
        "proj": times(depth, linear(p, c, c)),
        "mlp": times(depth, linear(p, c, hidden) + linear(p, hidden, c)),
    }


def total(stages: dict[str, Work]) -> Work:
    """Sum of all stages."""
    return sum(stages.values(), Work(flops=0.0, bytes=0.0))
