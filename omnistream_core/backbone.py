"""The causal vision transformer: one ``forward`` for a clip, a chunk and a live frame.

Shape letters: B streams, T frames, P tokens of a frame, N patches, R registers, S = T * P, D channels, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from omnistream_core.cache import FrameSlots, KVCache
from omnistream_core.config import BackboneConfig
from omnistream_core.layers.block import Block
from omnistream_core.layers.rope3d import rope_tables
from omnistream_core.types import BackboneOutput


class Backbone(nn.Module):
    """Images in, one ``BackboneOutput`` out; stateless, all memory is in the cache it is given.

    A frame's tokens, in this order: CLS, CAM (where the model has one), registers, patches row by row. CAM and the
    registers have two learned rows: row 0 for the first frame of a stream, row 1 for all later ones.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.patch_embed = nn.Conv2d(3, width, kernel_size=config.patch_px, stride=config.patch_px)
        self.cls_token = Parameter(torch.empty(width))
        self.register_tokens = Parameter(torch.empty(2, config.registers, width))
        self.mask_token = Parameter(torch.empty(width))
        if config.camera_token:
            self.cam_token = Parameter(torch.empty(2, width))
        if config.camera_token and config.aspect_embedding:
            self.aspect_embed = nn.Linear(1, width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def init_weights(self) -> None:
        """Give every parameter its first value: truncated normal of 0.02, as ViTs have; zero biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, Block):
                nn.init.constant_(module.scale1, self.config.layer_scale_init)
                nn.init.constant_(module.scale2, self.config.layer_scale_init)
        for name, parameter in self.named_parameters(recurse=False):
            nn.init.zeros_(parameter) if name == "mask_token" else nn.init.trunc_normal_(parameter, std=0.02)

    def grid_hw(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        """Patch rows and columns of an image.

        Raises:
            ValueError: a side that is no multiple of the patch.
        """
        patch = self.config.patch_px
        if image_hw[0] % patch or image_hw[1] % patch or min(image_hw) < patch:
            raise ValueError(f"image of {image_hw[0]}x{image_hw[1]} px: both sides must be multiples of {patch}")
        return image_hw[0] // patch, image_hw[1] // patch

    def forward(
        self,
        images_BT3HW: Tensor,
        cache: KVCache | None = None,
        *,
        rows: Sequence[int] | None = None,
        visible_TT: Tensor | None = None,
        frame_index_T: Tensor | None = None,
        mask_BTN: Tensor | None = None,
    ) -> BackboneOutput:
        """Encode T frames of B streams.

        Args:
            images_BT3HW: normalised RGB; sides are multiples of the patch.
            cache: memory to continue from and add to; None starts every stream afresh and remembers nothing.
            rows: the cache's streams that the batch belongs to, in order; None is all of them.
            visible_TT: bool, which frame (row) may see which (column), for a clip without a cache; None is causal.
                Every frame must see itself.
            frame_index_T: whole numbers, when each frame of a clip without a cache was taken; None is 0, 1, 2, ...
            mask_BTN: bool, patches to hide behind the mask token.

        Raises:
            ValueError: sizes that fit neither the patch nor the cache; a cache while gradients are recorded, which it
                cannot keep.
        """
        b, t, _, height, width = images_BT3HW.shape
        grid_hw = self.grid_hw((height, width))
        rows = list(range(b if cache is None else cache.streams)) if rows is None else list(rows)
        if cache is not None:
            check_cache(cache, grid_hw, rows, b)
            if visible_TT is not None or frame_index_T is not None:
                raise ValueError("visible_TT, frame_index_T and a cache exclude each other: the cache knows both")
            if torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters()):
                raise ValueError("a cache keeps no gradients: call under torch.inference_mode() or torch.no_grad()")
            cache.reserve(rows, t)
        elif visible_TT is not None and (visible_TT.shape != (t, t) or not visible_TT.diagonal().all()):
            raise ValueError(f"visible_TT {tuple(visible_TT.shape)}: ({t}, {t}) with a true diagonal is needed")
        if frame_index_T is None:
            frame_index_T = torch.arange(t)
        frame_index_BT = frame_index_T + torch.tensor([[cache.frame_count(r)] if cache else [0] for r in rows])
        x_BSD = self.embed(images_BT3HW, frame_index_BT, mask_BTN).flatten(1, 2)
        rope_BSD = self._rope(frame_index_BT, grid_hw, x_BSD)
        levels = []
        for number, block in enumerate(self.blocks):
            memory = None if cache is None else (cache, number, rows)
            x_BSD = block(x_BSD, rope_BSD, t, visible_TT=visible_TT, memory=memory)
            if number in self.config.levels:
                levels.append(self._patches(x_BSD, t))
        if cache is not None:
            cache.advance(rows, t)
        return self.output(self.norm(x_BSD).unflatten(1, (t, -1)), tuple(levels), grid_hw)

    def embed(self, images_BT3HW: Tensor, frame_index_BT: Tensor, mask_BTN: Tensor | None = None) -> Tensor:
        """(B, T, P, D) tokens before the first block."""
        b, t, _, height, width = images_BT3HW.shape
        patches_BTND = self.patch_embed(images_BT3HW.flatten(0, 1)).flatten(2).transpose(1, 2).unflatten(0, (b, t))
        if mask_BTN is not None:
            patches_BTND = torch.where(mask_BTN[..., None], self.mask_token.to(patches_BTND.dtype), patches_BTND)
        later_BT = (frame_index_BT > 0).long().to(images_BT3HW.device)
        prefix = [self.cls_token.expand(b, t, 1, -1)]
        if self.config.camera_token:
            cam_BTD = self.cam_token[later_BT]
            if self.config.aspect_embedding:
                log_aspect = cam_BTD.new_full((1,), math.log(height / width))  # filled on the device, not copied to it
                cam_BTD = cam_BTD + self.aspect_embed(log_aspect)
            prefix.append(cam_BTD[:, :, None])
        prefix.append(self.register_tokens[later_BT])
        return torch.cat([p.to(patches_BTND.dtype) for p in prefix] + [patches_BTND], dim=2)

    def _rope(self, frame_index_BT: Tensor, grid_hw: tuple[int, int], like: Tensor) -> tuple[Tensor, Tensor]:
        scale_yx, scale_t = (self._random_rescale() for _ in range(2))
        if bool((frame_index_BT == frame_index_BT[:1]).all()):
            frame_index_BT = frame_index_BT[:1]  # one table serves all streams
        cos, sin = rope_tables(
            self.config,
            frame_index_BT,
            grid_hw,
            device=like.device,
            dtype=like.dtype,
            scale_yx=scale_yx,
            scale_t=scale_t,
        )
        return cos.flatten(1, 2), sin.flatten(1, 2)

    def _random_rescale(self) -> float:
        if not self.training or self.config.rope_rescale == 1:
            return 1.0
        return self.config.rope_rescale ** (2 * float(torch.rand(())) - 1)

    def _patches(self, x_BSD: Tensor, frames: int) -> Tensor:
        return x_BSD.unflatten(1, (frames, -1))[:, :, self.config.prefix_tokens :]

    def output(self, x_BTPD: Tensor, levels: tuple[Tensor, ...], grid_hw: tuple[int, int]) -> BackboneOutput:
        """The record of normed tokens and of the patches after the chosen blocks."""
        prefix = self.config.prefix_tokens
        return BackboneOutput(
            patches_BTND=x_BTPD[:, :, prefix:],
            cls_BTD=x_BTPD[:, :, 0],
            cam_BTD=x_BTPD[:, :, 1] if self.config.camera_token else None,
            registers_BTRD=x_BTPD[:, :, prefix - self.config.registers : prefix],
            levels_BTND=levels,
            grid_hw=grid_hw,
        )


def check_cache(cache: FrameSlots, grid_hw: tuple[int, int], rows: list[int], batch: int) -> None:
    """Raises ``ValueError`` where a batch of images does not fit the memory it is given with."""
    if cache.grid_hw != grid_hw:
        raise ValueError(f"images of {grid_hw} patches do not fit a cache of {cache.grid_hw} patches")
    if len(rows) != batch or len(set(rows)) != batch or not all(0 <= row < cache.streams for row in rows):
        raise ValueError(f"rows {rows} for a batch of {batch}: {batch} distinct of 0..{cache.streams - 1} are needed")
