"""Frozen features of clips, extracted once for all probes.

Shape letters: B clips, T frames, F labelled frames, S frame tokens (CLS, then CAM where there is one), G cells of a
coarse grid, N patches, D channels, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from omnistream_core.config import PreprocessConfig, StreamConfig
from omnistream_core.model import OmniStreamModel
from omnistream_core.preprocess import model_size_hw, normalise
from omnistream_core.types import BackboneOutput

LABELLED = slice(3, None, 4)  # frames on which dense probes are fitted and judged: neighbours say the same again
COARSE_GRID_HW = (3, 4)
CLIPS_AT_ONCE = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipFeatures:
    """What a frozen backbone says of B clips, each encoded causally from its first frame. float32 on the CPU.

    Attributes:
        patches_BFND: patch features after the last block, of the frames ``LABELLED``; row-major over ``grid_hw``.
        frame_BTSD: CLS and, where there is one, CAM of every frame.
        coarse_BTGD: patch features of every frame, averaged over a coarse grid.
        grid_hw: rows and columns of patches.
    """

    patches_BFND: Tensor
    frame_BTSD: Tensor
    coarse_BTGD: Tensor
    grid_hw: tuple[int, int]

    @property
    def tokens_BTSD(self) -> Tensor:
        """Every frame's few tokens, for probes of whole clips: CLS, CAM, coarse patches."""
        return torch.cat((self.frame_BTSD, self.coarse_BTGD), dim=2)


def extract(model: OmniStreamModel, stream: StreamConfig, images_BT3HW: Tensor) -> ClipFeatures:
    """Features of uint8 RGB clips at the model's own image size."""
    parts = [_of_clips(model, stream, images) for images in images_BT3HW.split(CLIPS_AT_ONCE)]
    return ClipFeatures(
        patches_BFND=torch.cat([p.patches_BFND for p in parts]),
        frame_BTSD=torch.cat([p.frame_BTSD for p in parts]),
        coarse_BTGD=torch.cat([p.coarse_BTGD for p in parts]),
        grid_hw=parts[0].grid_hw,
    )


@torch.inference_mode()
def encode(
    model: OmniStreamModel, stream: StreamConfig, images_BT3HW: Tensor, *, area_px: int | None = None
) -> BackboneOutput:
    """The backbone over whole uint8 clips, which equals streaming them; ``area_px`` overrides the model's own size."""
    preprocess = model.config.preprocess
    sized = preprocess if area_px is None else PreprocessConfig(area_px=area_px)
    patch_px = model.config.backbone.patch_px
    size_hw = model_size_hw(sized, (images_BT3HW.shape[-2], images_BT3HW.shape[-1]), patch_px)
    images = images_BT3HW.to(stream.device).flatten(0, 1)
    if tuple(images.shape[-2:]) != size_hw:
        images = F.interpolate(images.float(), size=size_hw, mode="bilinear", align_corners=False, antialias=True)
    images = normalise(preprocess, images).to(getattr(torch, stream.dtype))
    return model.backbone(images.unflatten(0, images_BT3HW.shape[:2]))


def _of_clips(model: OmniStreamModel, stream: StreamConfig, images_BT3HW: Tensor) -> ClipFeatures:
    output = encode(model, stream, images_BT3HW)
    frame = [output.cls_BTD] if output.cam_BTD is None else [output.cls_BTD, output.cam_BTD]
    return ClipFeatures(
        patches_BFND=_float(output.patches_BTND[:, LABELLED]),
        frame_BTSD=_float(torch.stack(frame, dim=2)),
        coarse_BTGD=_float(_coarse(output.patches_BTND, output.grid_hw)),
        grid_hw=output.grid_hw,
    )


def _coarse(patches_BTND: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    b, t = patches_BTND.shape[:2]
    maps_XDhw = patches_BTND.flatten(0, 1).unflatten(1, grid_hw).permute(0, 3, 1, 2)
    return F.adaptive_avg_pool2d(maps_XDhw, COARSE_GRID_HW).flatten(2).mT.unflatten(0, (b, t))


def _float(value: Tensor) -> Tensor:
    return value.float().cpu().clone()
