"""Causal spatiotemporal attention: a token sees all tokens of its own frame and of every visible earlier frame.

Shape letters: B streams, T frames, P tokens of a frame, H heads, S = T * P tokens, D channels of a head.

Attention never learns of windows: it is given the keys it may see. A live frame, and each frame of a chunk that goes
through a cache, attends to a plain view of memory without any mask. A whole clip without a cache is block-causal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnistream_core.cache import KVCache
from omnistream_core.layers.rope3d import rotate

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

try:  # optional, CUDA only
    from flash_attn import flash_attn_func
except ImportError:
    flash_attn_func = None

ClipAttention = Literal["frames", "mask", "flex"]


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions, over a clip or through a cache."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self,
        x_BSC: Tensor,
        rope_BSD: tuple[Tensor, Tensor],
        frames: int,
        *,
        visible_TT: Tensor | None = None,
        memory: tuple[KVCache, int, Sequence[int]] | None = None,
    ) -> Tensor:
        """(B, S, C) in and out.

        Args:
            rope_BSD: cosine and sine of every token's angles.
            frames: T.
            visible_TT: bool, which frame may see which, for a clip; None is causal.
            memory: (cache, block number, its rows) to remember and attend through instead of the clip alone.
        """
        b, s, c = x_BSC.shape
        q, k, v = self.qkv(x_BSC).view(b, s, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, *rope_BSD), rotate(k, *rope_BSD)
        if memory is not None:
            out_BHSD = attend_through(memory, q, k, v, frames)
        else:
            out_BHSD = attend_clip(q, k, v, frames, visible_TT=visible_TT)
        return self.proj(out_BHSD.transpose(1, 2).reshape(b, s, c))


def attend(q_BHSD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, mask_SS: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(D)) v with every key visible, or those where ``mask_SS`` is true."""
    if mask_SS is None and flash_attn_func is not None and q_BHSD.is_cuda and q_BHSD.dtype.itemsize == 2:
        return flash_attn_func(*(t.transpose(1, 2) for t in (q_BHSD, k_BHSD, v_BHSD))).transpose(1, 2)
    if mask_SS is None and q_BHSD.device.type == "cpu" and q_BHSD.dtype == torch.bfloat16:
        return _attend_by_products(q_BHSD, k_BHSD, v_BHSD)
    return F.scaled_dot_product_attention(q_BHSD, k_BHSD, v_BHSD, attn_mask=mask_SS)


def _attend_by_products(q_BHSD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor) -> Tensor:
    """Two matrix products and a softmax: in bfloat16 on a CPU up to three times as fast as torch's fused kernel."""
    weights_BHSS = (q_BHSD * q_BHSD.shape[-1] ** -0.5 @ k_BHSD.mT).softmax(-1)
    return weights_BHSS.to(v_BHSD.dtype) @ v_BHSD


def attend_through(
    memory: tuple[KVCache, int, Sequence[int]], q_BHSD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, frames: int
) -> Tensor:
    """Frame after frame: write it, attend to what its stream remembers then. No mask, no copy of the memory."""
    cache, layer, rows = memory
    out = []
    steps = (t.chunk(frames, dim=2) for t in (q_BHSD, k_BHSD, v_BHSD))
    for ahead, (q_BHPD, k_BHPD, v_BHPD) in enumerate(zip(*steps, strict=True)):
        groups = cache.remember(layer, rows, ahead, k_BHPD, v_BHPD)
        if len(groups) == 1:
            out.append(attend(q_BHPD, groups[0][1].to(q_BHPD.dtype), groups[0][2].to(q_BHPD.dtype)))
            continue
        out_BHPD = torch.empty_like(q_BHPD)
        for positions, keys, values in groups:
            out_BHPD[positions] = attend(q_BHPD[positions], keys.to(q_BHPD.dtype), values.to(q_BHPD.dtype))
        out.append(out_BHPD)
    return out[0] if frames == 1 else torch.cat(out, dim=2)


def attend_clip(
    q_BHSD: Tensor,
    k_BHSD: Tensor,
    v_BHSD: Tensor,
    frames: int,
    *,
    visible_TT: Tensor | None = None,
    method: ClipAttention | None = None,
) -> Tensor:
    """A clip at once; causal over frames unless ``visible_TT`` (bool, query frame by key frame) says otherwise.

    Args:
        method: ``frames`` one unmasked call a frame (no work on hidden keys; the default off CUDA), ``flex``
            FlexAttention with a block mask (the default on CUDA), ``mask`` one call with a dense mask.
    """
    if frames == 1:
        return attend(q_BHSD, k_BHSD, v_BHSD)
    method = method or ("flex" if q_BHSD.is_cuda else "frames")
    if visible_TT is None:
        visible_TT = torch.ones(frames, frames, dtype=torch.bool).tril()
    if method == "frames":
        return _attend_frames(q_BHSD, k_BHSD, v_BHSD, visible_TT.cpu())
    tokens = q_BHSD.shape[2] // frames
    if method == "flex":
        return _attend_flex(q_BHSD, k_BHSD, v_BHSD, visible_TT, tokens)
    mask_SS = visible_TT.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1).to(q_BHSD.device)
    return attend(q_BHSD, k_BHSD, v_BHSD, mask_SS)


def _attend_frames(q_BHSD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, visible_TT: Tensor) -> Tensor:
    frames = len(visible_TT)
    k_frames, v_frames = k_BHSD.chunk(frames, dim=2), v_BHSD.chunk(frames, dim=2)
    tokens = q_BHSD.shape[2] // frames
    out = []
    for q_BHPD, seen in zip(q_BHSD.chunk(frames, dim=2), visible_TT.tolist(), strict=True):
        shown = [t for t, yes in enumerate(seen) if yes]
        if shown == list(range(len(shown))):  # the oldest frames, all of them: a view does
            k, v = (x[:, :, : len(shown) * tokens] for x in (k_BHSD, v_BHSD))
        else:
            k, v = (torch.cat([x[t] for t in shown], dim=2) for x in (k_frames, v_frames))
        out.append(attend(q_BHPD, k, v))
    return torch.cat(out, dim=2)


def _attend_flex(q_BHSD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, visible_TT: Tensor, tokens: int) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    block_mask = _block_mask(tuple(map(tuple, visible_TT.tolist())), tokens, q_BHSD.device)
    kernel: Callable[..., Any] = _compiled_flex() if q_BHSD.is_cuda else flex_attention
    return kernel(q_BHSD, k_BHSD, v_BHSD, block_mask=block_mask)


@lru_cache(maxsize=1)
def _compiled_flex() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # kept masks serve training too, which refuses tensors born in inference mode
def _block_mask(visible: tuple[tuple[bool, ...], ...], tokens: int, device: torch.device) -> BlockMask:
    from torch.nn.attention.flex_attention import create_block_mask

    visible_TT = torch.tensor(visible, device=device)
    length = len(visible) * tokens

    def frame_visible(b: Tensor, h: Tensor, q_token: Tensor, k_token: Tensor) -> Tensor:
        return visible_TT[q_token // tokens, k_token // tokens]

    return create_block_mask(frame_visible, None, None, length, length, device=str(device))
