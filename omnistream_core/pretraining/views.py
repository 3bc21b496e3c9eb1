"""What a student and a teacher are shown of a clip: crops, colours and masks, all constant over the clip's time.

Shape letters: B clips, T frames, V views, N patches, H W pixels of the clip, h w pixels of a view.

Source of the statistics: DINOv2 (crops by share of the area, colour jitter, grey, blur; masks on half of the samples).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from omnistream_core.errors import ConfigError

LUMA_3 = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """Statistics of the views.

    Attributes:
        global_hw, local_hw: sizes in pixels.
        globals, locals: how many views of each kind.
        global_area, local_area: range of the share of the image that a crop covers.
        aspect: range of the factor on the crop's aspect, log-uniform.
        jitter: largest relative change of brightness and contrast; half of it for saturation.
        grey: share of views without colour.
        blur: share of views that are blurred.
        masked_share: share of clips whose global views are masked.
        masked_patches: range of the share of a view's patches that are hidden.
    """

    global_hw: tuple[int, int] = (96, 128)
    local_hw: tuple[int, int] = (48, 64)
    globals: int = 2
    locals: int = 2
    global_area: tuple[float, float] = (0.4, 1.0)
    local_area: tuple[float, float] = (0.08, 0.4)
    aspect: tuple[float, float] = (0.8, 1.25)
    jitter: float = 0.4
    grey: float = 0.1
    blur: float = 0.3
    masked_share: float = 0.5
    masked_patches: tuple[float, float] = (0.1, 0.5)

    def __post_init__(self) -> None:
        if self.globals < 2:
            raise ConfigError(f"views globals = {self.globals}: 2 or more are needed, each is the other's target")
        for name in ("global_area", "local_area", "masked_patches"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise ConfigError(f"views {name} = {(low, high)}: 0 < low <= high <= 1 is needed")


@dataclass(frozen=True, kw_only=True, eq=False)
class Views:
    """Views of a batch of clips.

    Attributes:
        global_VBT3hw, local_VBT3hw: RGB in 0..255, float32.
        mask_VBTN: bool, patches of the global views that the student does not see.
    """

    global_VBT3hw: Tensor
    local_VBT3hw: Tensor
    mask_VBTN: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewDraw:
    """The random numbers behind the views of some clips; a function of the generator alone.

    Attributes:
        global_boxes_VB4, local_boxes_VB4: centre x, y and half width, height of a crop, in [-1, 1] image coordinates;
            a negative half width mirrors.
        global_looks_VB5, local_looks_VB5: factors of brightness, contrast and saturation, whether blurred, whether
            grey (0 or 1).
        mask_VBN: bool.
    """

    global_boxes_VB4: Tensor
    local_boxes_VB4: Tensor
    global_looks_VB5: Tensor
    local_looks_VB5: Tensor
    mask_VBN: Tensor


def draw_views(clips: int, patch_px: int, config: ViewConfig, generator: Generator) -> ViewDraw:
    """Draw how ``clips`` clips are shown; CPU tensors."""
    patches = (config.global_hw[0] // patch_px) * (config.global_hw[1] // patch_px)
    return ViewDraw(
        global_boxes_VB4=_boxes(config.globals, clips, config.global_area, config.aspect, generator),
        local_boxes_VB4=_boxes(config.locals, clips, config.local_area, config.aspect, generator),
        global_looks_VB5=_looks(config.globals, clips, config, generator),
        local_looks_VB5=_looks(config.locals, clips, config, generator),
        mask_VBN=_masks(config.globals, clips, patches, config, generator),
    )


def joined(draws: list[ViewDraw]) -> ViewDraw:
    """The draws of several groups of clips as one."""
    return ViewDraw(**{name: torch.cat([getattr(d, name) for d in draws], dim=1) for name in vars(draws[0])})


def make_views(images_BT3HW: Tensor, draw: ViewDraw, config: ViewConfig) -> Views:
    """Cut and colour the views that were drawn; on the device of the images, which are uint8 or 0..255."""
    frames = images_BT3HW.shape[1]
    images_BT3HW = images_BT3HW.float()
    crops = (
        (draw.global_boxes_VB4, draw.global_looks_VB5, config.global_hw),
        (draw.local_boxes_VB4, draw.local_looks_VB5, config.local_hw),
    )
    made = [
        torch.stack([_look(_crop(images_BT3HW, b, size), k) for b, k in zip(boxes, looks, strict=True)])
        if len(boxes)
        else images_BT3HW.new_empty(0, *images_BT3HW.shape[:3], *size)
        for boxes, looks, size in crops
    ]
    mask_VBTN = draw.mask_VBN[:, :, None].expand(-1, -1, frames, -1).to(images_BT3HW.device)
    return Views(global_VBT3hw=made[0], local_VBT3hw=made[1], mask_VBTN=mask_VBTN)


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _boxes(
    views: int, clips: int, area: tuple[float, float], aspect: tuple[float, float], generator: Generator
) -> Tensor:
    size_VB = _uniform((views, clips), *area, generator).sqrt()
    stretch_VB = _uniform((views, clips), math.log(aspect[0]), math.log(aspect[1]), generator).mul(0.5).exp()
    half_VB2 = torch.stack((size_VB * stretch_VB, size_VB / stretch_VB), -1).clamp(max=1.0)
    centre_VB2 = (2 * torch.rand((views, clips, 2), generator=generator) - 1) * (1 - half_VB2)
    side_VB = torch.where(torch.rand((views, clips), generator=generator) < 0.5, -1.0, 1.0)
    return torch.cat((centre_VB2, half_VB2 * torch.stack((side_VB, torch.ones_like(side_VB)), -1)), -1)


def _looks(views: int, clips: int, config: ViewConfig, generator: Generator) -> Tensor:
    spread = torch.tensor([config.jitter, config.jitter, config.jitter / 2])
    factors_VB3 = 1 + spread * _uniform((views, clips, 3), -1, 1, generator)
    chances_VB2 = torch.rand((views, clips, 2), generator=generator) < torch.tensor([config.blur, config.grey])
    return torch.cat((factors_VB3, chances_VB2.float()), -1)


def _masks(views: int, clips: int, patches: int, config: ViewConfig, generator: Generator) -> Tensor:
    """Of ``masked_share`` of the clips, a drawn share of the patches, the same in every frame: a tube."""
    share_VB = _uniform((views, clips), *config.masked_patches, generator)
    share_VB = share_VB * (torch.rand((views, clips), generator=generator) < config.masked_share)
    order_VBN = torch.rand((views, clips, patches), generator=generator).argsort(-1).argsort(-1)
    return order_VBN < (share_VB * patches).round()[..., None]


def _crop(images_BT3HW: Tensor, boxes_B4: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """(B, T, 3, h, w): one box for all frames of a clip, bilinear; a crop larger than its view is averaged first."""
    b, t = images_BT3HW.shape[:2]
    x, y, half_w, half_h = boxes_B4.to(images_BT3HW.device).repeat_interleave(t, 0).unbind(-1)
    zero = torch.zeros_like(x)
    theta_X23 = torch.stack((half_w, zero, x, zero, half_h, y), -1).unflatten(-1, (2, 3))
    grid = F.affine_grid(theta_X23, [b * t, 3, *size_hw], align_corners=False)
    smaller = images_BT3HW.flatten(0, 1)
    shrink = int(min(images_BT3HW.shape[-2] / size_hw[0], images_BT3HW.shape[-1] / size_hw[1]) * boxes_B4[:, 3].min())
    if shrink > 1:
        smaller = F.avg_pool2d(smaller, shrink)
    return F.grid_sample(smaller, grid, padding_mode="border", align_corners=False).unflatten(0, (b, t))


def _look(view_BT3hw: Tensor, looks_B5: Tensor) -> Tensor:
    bright, contrast, colour, blurred, grey = (
        v[:, None, None, None, None] for v in looks_B5.to(view_BT3hw.device).unbind(-1)
    )
    view = view_BT3hw * bright
    view = (view - view.mean(dim=(1, 2, 3, 4), keepdim=True)) * contrast + view.mean(dim=(1, 2, 3, 4), keepdim=True)
    luma = (view * view.new_tensor(LUMA_3)[:, None, None]).sum(2, keepdim=True)
    view = luma + (view - luma) * colour * (1 - grey)
    soft = F.avg_pool2d(F.pad(view.flatten(0, 1), (1, 1, 1, 1), mode="replicate"), 3, stride=1).unflatten(
        0, view.shape[:2]
    )
    return torch.where(blurred > 0, soft, view).clamp(0, 255)
