"""Dual DPT: one pyramid of patch features, two branches: depth with confidence, and rays.

Shape letters: X = B * T frames, N patches, D backbone channels, C head channels, h w a level's grid, H W model pixels.

Source: dense prediction transformer, Ranftl et al. 2021 (reassemble at 4, 2, 1, 1/2 of the patch grid, fuse from coarse
to fine); two branches over one pyramid as in OmniStream 2026.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnistream_core.config import HeadConfig
from omnistream_core.types import BackboneOutput

LOG_DEPTH_RANGE = (-4.0, 5.5)  # 2 cm to 245 m: exp of it is finite in every dtype


class DualDPT(nn.Module):
    """Reads the four levels of a ``BackboneOutput``; writes depth, confidence and rays at the model's input size."""

    def __init__(self, width: int, patch_px: int, config: HeadConfig) -> None:
        super().__init__()
        self.patch_px = patch_px
        self.reassemble = nn.ModuleList(Reassemble(width, config.features, factor) for factor in (4, 2, 1, 0.5))
        self.depth = FusionBranch(config.features, config.features, outputs=2)
        self.rays = FusionBranch(config.features, config.ray_features, outputs=6)

    def forward(self, features: BackboneOutput) -> tuple[Tensor, Tensor, Tensor]:
        """Depth (B, T, H, W) in metres, confidence (B, T, H, W), rays (B, T, H, W, 6)."""
        b, t = features.cls_BTD.shape[:2]
        image_hw = (features.grid_hw[0] * self.patch_px, features.grid_hw[1] * self.patch_px)
        pyramid = [
            reassemble(level.flatten(0, 1), features.grid_hw)
            for reassemble, level in zip(self.reassemble, features.levels_BTND, strict=True)
        ]
        depth_X2HW = _resize(self.depth(pyramid), image_hw).float()
        rays_X6HW = _resize(self.rays(pyramid), image_hw).float()
        depth_XHW = depth_X2HW[:, 0].clamp(*LOG_DEPTH_RANGE).exp()
        confidence_XHW = 1 + depth_X2HW[:, 1].clamp(max=10).exp()
        rays_XHW6 = rays_X6HW.permute(0, 2, 3, 1)
        return tuple(x.unflatten(0, (b, t)) for x in (depth_XHW, confidence_XHW, rays_XHW6))

    @torch.no_grad()
    def reset_confidence(self) -> None:
        """Confidence becomes 2 everywhere. Where it has sunk to 1, no gradient of 1 + exp brings it back."""
        for parameter in self.depth.head[-1].parameters():
            parameter[1].zero_()


class Reassemble(nn.Module):
    """Patch tokens of one level to a feature map at ``factor`` times the patch grid."""

    def __init__(self, width: int, channels: int, factor: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, channels)
        self.place = nn.Linear(2, channels)  # where a patch lies in the image; attention alone knows it only relatively
        if factor > 1:
            self.resize: nn.Module = nn.ConvTranspose2d(channels, channels, int(factor), stride=int(factor))
        elif factor < 1:
            self.resize = nn.Conv2d(channels, channels, 3, stride=round(1 / factor), padding=1)
        else:
            self.resize = nn.Identity()

    def forward(self, patches_XND: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """(X, C, h, w)."""
        tokens_XNC = self.project(self.norm(patches_XND)) + self.place(_grid_places(grid_hw, patches_XND))
        return self.resize(tokens_XNC.transpose(1, 2).unflatten(2, grid_hw))


class FusionBranch(nn.Module):
    """Fuses a pyramid from coarse to fine and predicts at twice the finest level."""

    def __init__(self, channels_in: int, channels: int, outputs: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(channels_in, channels, 1) for _ in range(4))
        self.refine = nn.ModuleList(Residual(channels) for _ in range(4))
        self.head = nn.Sequential(
            nn.Conv2d(channels, channels // 2, 3, padding=1), nn.ReLU(), nn.Conv2d(channels // 2, outputs, 1)
        )

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        """(X, outputs, 2 h, 2 w) of the finest level's h, w."""
        x = self.refine[3](self.lateral[3](pyramid[3]))
        for level in (2, 1, 0):
            finer = self.lateral[level](pyramid[level])
            x = self.refine[level](finer + _resize(x, finer.shape[-2:]))
        return self.head(_resize(x, (2 * x.shape[-2], 2 * x.shape[-1])))


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x_XChw: Tensor) -> Tensor:
        return x_XChw + self.conv2(F.relu(self.conv1(F.relu(x_XChw))))


def _resize(x_XChw: Tensor, size_hw: tuple[int, int] | torch.Size) -> Tensor:
    return F.interpolate(x_XChw, size=tuple(size_hw), mode="bilinear", align_corners=False)


def _grid_places(grid_hw: tuple[int, int], like: Tensor) -> Tensor:
    """(N, 2) x and y of every patch centre, in [-1, 1]."""
    centre: Callable[[int], Tensor] = lambda n: 2 * (torch.arange(n, device=like.device) + 0.5) / n - 1  # noqa: E731
    y_hw, x_hw = torch.meshgrid(centre(grid_hw[0]), centre(grid_hw[1]), indexing="ij")
    return torch.stack((x_hw, y_hw), dim=-1).flatten(0, 1).to(like.dtype)
