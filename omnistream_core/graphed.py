"""One live frame as a captured CUDA graph: no launch of a kernel waits for Python.

Only a full, bounded memory is captured: from then on every shape, address and key that may be seen stays the same, and
attention needs no mask. Until then, and for everything else, the plain path runs.

Shape letters: B streams, T frames, P tokens of a frame, F slots, S = F * P tokens held, H heads, D channels of a head.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from omnistream_core.backbone import Backbone
from omnistream_core.cache import KVCache
from omnistream_core.layers import attention
from omnistream_core.layers.block import Block
from omnistream_core.layers.rope3d import LiveRope, rotate
from omnistream_core.retention import Recent
from omnistream_core.types import BackboneOutput

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
BACKENDS = (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
_log = logging.getLogger(__name__)


class LiveStep:
    """The next frame of all streams of a full memory; every input and output is a tensor that stays where it is."""

    def __init__(self, backbone: Backbone, cache: KVCache, image_hw: tuple[int, int], dtype: torch.dtype) -> None:
        if not isinstance(cache.keeps, Recent) or type(cache) is not KVCache:
            raise ValueError("only a memory of recent frames, in a dtype of its own, can be captured")
        device = backbone.cls_token.device
        self.backbone, self.cache = backbone, cache
        self.rope = LiveRope(backbone.config, cache.grid_hw, device)
        self.images_B13HW = torch.zeros(cache.streams, 1, 3, *image_hw, dtype=dtype, device=device)
        self.frame_B = torch.zeros(cache.streams, dtype=torch.int64, device=device)
        self.attend: Attend = attention.attend

    def __call__(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Normed tokens (B, 1, P, C) and the patches of the chosen blocks; the memory has the frame."""
        backbone, config = self.backbone, self.backbone.config
        later_B1 = torch.ones(
            self.cache.streams, 1, dtype=torch.int64
        )  # a full memory: no stream is at its first frame
        x_BPC = backbone.embed(self.images_B13HW, later_B1)[:, 0]
        rope, slot_B = self.rope(self.frame_B, x_BPC.dtype), self._slot()
        levels = []
        for number, module in enumerate(backbone.blocks):
            block = cast(Block, module)
            x_BPC = x_BPC + block.scale1 * self._attention(block, number, block.norm1(x_BPC), rope, slot_B)
            x_BPC = x_BPC + block.scale2 * block.mlp(block.norm2(x_BPC))
            if number in config.levels:
                levels.append(x_BPC[:, None, config.prefix_tokens :])
        return backbone.norm(x_BPC)[:, None], tuple(levels)

    def _slot(self) -> Tensor:
        keeps = cast(Recent, self.cache.keeps)
        return keeps.sink + (self.frame_B - keeps.sink) % keeps.window

    def _attention(
        self, block: Block, number: int, x_BPC: Tensor, rope: tuple[Tensor, Tensor], slot_B: Tensor
    ) -> Tensor:
        b, p, c = x_BPC.shape
        heads = block.attn.heads
        q, k, v = block.attn.qkv(x_BPC).view(b, p, 3, heads, c // heads).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, *rope), rotate(k, *rope)
        rows_B = torch.arange(b, device=x_BPC.device)
        held = self.cache._keys_BHSD[number], self.cache._values_BHSD[number]
        for store_BHSD, new_BHPD in zip(held, (k, v), strict=True):
            store_BHSD.unflatten(2, (-1, p))[rows_B, :, slot_B] = new_BHPD.to(store_BHSD.dtype)
        out_BHPD = self.attend(q, *(t.to(q.dtype) for t in held))
        return block.attn.proj(out_BHPD.transpose(1, 2).reshape(b, p, c))


class GraphedBackbone:
    """Calls like a ``Backbone`` with a cache; replays a captured graph where one serves."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._captured: dict[int, tuple[KVCache, LiveStep, torch.cuda.CUDAGraph, Any]] = {}

    @torch.inference_mode()
    def __call__(self, images_BT3HW: Tensor, cache: KVCache, *, rows: Sequence[int] | None = None) -> BackboneOutput:
        """As ``Backbone.forward``."""
        if not can_replay(cache, images_BT3HW.shape[1], rows):
            return self.backbone(images_BT3HW, cache, rows=rows)
        if id(cache) not in self._captured:
            self._captured = {id(cache): self._capture(cache, images_BT3HW)}
        _, live, graph, (x_B1PC, levels) = self._captured[id(cache)]
        live.images_B13HW.copy_(images_BT3HW, non_blocking=True)
        live.frame_B.copy_(_frames(cache), non_blocking=True)
        graph.replay()
        cache.advance(range(cache.streams), 1)
        out = (x_B1PC.clone(), tuple(level.clone() for level in levels))  # the next replay writes them again
        return self.backbone.output(*out, cache.grid_hw)

    def _capture(self, cache: KVCache, images_BT3HW: Tensor) -> tuple[KVCache, LiveStep, torch.cuda.CUDAGraph, Any]:
        live = LiveStep(self.backbone, cache, tuple(images_BT3HW.shape[-2:]), images_BT3HW.dtype)  # type: ignore[arg-type]
        live.images_B13HW.copy_(images_BT3HW)
        live.frame_B.copy_(_frames(cache))
        name, live.attend = fastest_attention(self.backbone, cache)
        _log.info("a live frame of %d streams is captured; attention by %s", cache.streams, name)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # the same frame into the same slot: running it early changes nothing
            for _ in range(3):
                live()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = live()
        return cache, live, graph, out


def can_replay(cache: KVCache, frames: int, rows: Sequence[int] | None) -> bool:
    """Whether one frame of all streams goes into a full memory of recent frames."""
    everyone = rows is None or list(rows) == list(range(cache.streams))
    recent = isinstance(cache.keeps, Recent) and type(cache) is KVCache
    return (
        frames == 1 and everyone and recent and all(cache.frame_count(r) >= cache.slots for r in range(cache.streams))
    )


def _frames(cache: KVCache) -> Tensor:
    return torch.tensor([cache.frame_count(row) for row in range(cache.streams)])


def fastest_attention(backbone: Backbone, cache: KVCache) -> tuple[str, Attend]:
    """Name and function of the attention that is fastest here for one live frame; measured, not guessed."""
    like, config = backbone.cls_token, backbone.config
    shape = (cache.streams, config.heads, cache.tokens_per_frame, config.head_dim)
    q = torch.randn(shape, dtype=like.dtype, device=like.device)
    k, v = (store[0].to(q.dtype) for store in (cache._keys_BHSD, cache._values_BHSD))
    candidates: dict[str, Attend] = {backend.name: _through(backend) for backend in BACKENDS}
    if attention.flash_attn_func is not None:
        candidates["flash_attn"] = attention.attend
    times = {name: time for name, attend in candidates.items() if (time := _seconds(attend, q, k, v)) is not None}
    name = min(times, key=times.__getitem__)
    _log.info("attention of one frame, microseconds: %s", {n: round(1e6 * t, 1) for n, t in times.items()})
    return name, candidates[name]


def _through(backend: SDPBackend) -> Attend:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v)

    return attend


def _seconds(attend: Attend, q: Tensor, k: Tensor, v: Tensor, repeats: int = 20) -> float | None:
    """Mean time of a call, None where the kernel does not serve these tensors."""
    try:
        for _ in range(3):
            attend(q, k, v)
    except RuntimeError:
        return None
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(repeats):
        attend(q, k, v)
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / repeats
