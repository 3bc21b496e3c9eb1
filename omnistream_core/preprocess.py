"""From RGB images to the backbone's input, and back to pixels: the only place that knows size, mean and deviation.

Shape letters: B streams, T frames, H W pixels (of the input image or of the model, as said), C channels.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from omnistream_core.config import PreprocessConfig


def model_size_hw(config: PreprocessConfig, image_hw: tuple[int, int], patch_px: int) -> tuple[int, int]:
    """Size at which the model sees an image: aspect kept, about ``area_px`` pixels, sides multiples of the patch."""
    height, width = image_hw
    scale = 1.0 if config.area_px is None else math.sqrt(config.area_px / (height * width))
    return max(patch_px, _nearest(height * scale, patch_px)), max(patch_px, _nearest(width * scale, patch_px))


def to_model(config: PreprocessConfig, image_HW3: np.ndarray, size_hw: tuple[int, int], device: torch.device) -> Tensor:
    """(H, W, 3) uint8 RGB to (3, h, w) float32, resized with antialiasing and normalised."""
    writable_HW3 = np.require(image_HW3, requirements=("C", "W"))  # torch warns of memory that it must not write
    bytes_HW3 = torch.from_numpy(writable_HW3)
    if device.type == "cuda":  # bytes cross once, from pinned memory, without waiting for what the device does
        bytes_HW3 = bytes_HW3.pin_memory()
    image_1CHW = bytes_HW3.to(device, non_blocking=True).permute(2, 0, 1)[None]
    if image_1CHW.shape[-2:] != size_hw:
        image_1CHW = F.interpolate(
            image_1CHW.float(), size=size_hw, mode="bilinear", align_corners=False, antialias=True
        )
    return normalise(config, image_1CHW)[0]


def normalise(config: PreprocessConfig, images_X3HW: Tensor) -> Tensor:
    """(..., 3, H, W) RGB in 0..255, any dtype, to float32 of the backbone's mean and standard deviation."""
    mean_311, std_311 = (
        torch.tensor(v, device=images_X3HW.device)[:, None, None] * 255 for v in (config.mean, config.std)
    )
    return (images_X3HW.float() - mean_311) / std_311


def to_image_size(maps_CHW: Tensor, image_hw: tuple[int, int]) -> Tensor:
    """(C, h, w) maps at the model's size to (C, H, W) at the image's, bilinear."""
    if tuple(maps_CHW.shape[-2:]) == image_hw:
        return maps_CHW
    return F.interpolate(maps_CHW[None], size=image_hw, mode="bilinear", align_corners=False)[0]


def _nearest(value: float, multiple: int) -> int:
    return round(value / multiple) * multiple
