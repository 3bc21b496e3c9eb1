"""A pre-norm transformer block with LayerScale, as in DINOv3. Shape letters: B streams, S tokens, C channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from omnistream_core.cache import KVCache
from omnistream_core.config import BackboneConfig
from omnistream_core.layers.attention import Attention


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x_BSC: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x_BSC)))


class Block(nn.Module):
    """x + scale1 * attention(norm1(x)), then x + scale2 * mlp(norm2(x))."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        width = config.width
        self.norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attn = Attention(width, config.heads)
        self.scale1 = Parameter(torch.empty(width))
        self.norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = Mlp(width, round(width * config.mlp_ratio))
        self.scale2 = Parameter(torch.empty(width))

    def forward(
        self,
        x_BSC: Tensor,
        rope_BSD: tuple[Tensor, Tensor],
        frames: int,
        *,
        visible_TT: Tensor | None,
        memory: tuple[KVCache, int, Sequence[int]] | None,
    ) -> Tensor:
        x_BSC = x_BSC + self.scale1 * self.attn(
            self.norm1(x_BSC), rope_BSD, frames, visible_TT=visible_TT, memory=memory
        )
        return x_BSC + self.scale2 * self.mlp(self.norm2(x_BSC))
