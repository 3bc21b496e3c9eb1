"""3D rotary position embedding over time, rows and columns.

Shape letters: B streams, T frames, P tokens of a frame, N patches, D channels of a head.

Source: the two-dimensional layout and periods are those of DINOv3 (Simeoni et al. 2025); OmniStream (2026) gives every
fourth channel to time, t : y : x = 2 : 3 : 3. Periods are base^(2i / (D/2)), i < D/4; time takes the first D/8 of them.
The angle of a channel is 2 pi coordinate / period, with y and x in [-1, 1] over the image and t = frame / 16.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

from omnistream_core.config import BackboneConfig


def rope_tables(
    config: BackboneConfig,
    frame_index_BT: Tensor,
    grid_hw: tuple[int, int],
    *,
    device: torch.device,
    dtype: torch.dtype,
    scale_yx: float = 1.0,
    scale_t: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every token's angles: two (B, T, P, D) tensors; 1 and 0 for the tokens before the patches.

    Args:
        frame_index_BT: int64, on the CPU; absolute frame numbers. Angles are exact to 1e-9 turns up to frame 10^7,
            which is four days at 30 Hz, and lose one digit with each further power of ten.
        scale_yx, scale_t: factors on the coordinates, for training.
    """
    cos_PD, sin_PD, is_time_D = _space_tables(config, grid_hw, scale_yx, device, dtype)
    if not config.rope_time:
        shape = (*frame_index_BT.shape, *cos_PD.shape)
        return cos_PD.expand(shape), sin_PD.expand(shape)
    angle_BTD = _time_angles(config, frame_index_BT, scale_t)
    cos_BT1D = angle_BTD.cos().to(device, dtype)[:, :, None]
    sin_BT1D = angle_BTD.sin().to(device, dtype)[:, :, None]
    is_time_PD = is_time_D & _is_patch(config, grid_hw, device)[:, None]
    return torch.where(is_time_PD, cos_BT1D, cos_PD), torch.where(is_time_PD, sin_BT1D, sin_PD)


def rotate(x_BHSD: Tensor, cos_BSD: Tensor, sin_BSD: Tensor) -> Tensor:
    """Turn each pair (channel j, channel j + D/2) by its angle; (B, H, S, D) in and out."""
    first, second = x_BHSD.chunk(2, dim=-1)
    turned_BHSD = torch.cat((-second, first), dim=-1)
    return x_BHSD * cos_BSD.unsqueeze(1) + turned_BHSD * sin_BSD.unsqueeze(1)


class LiveRope(nn.Module):
    """The tables of live frames, computed where the frames are, from frame numbers that are tensors themselves.

    For exported and captured steps, whose work must not depend on the host. A number goes in digit by digit, so that
    float32 loses nothing at large ones: angles are exact to 1e-4 up to frame 64^4, nine days at 20 Hz.
    """

    BASE, DIGITS = 64, 4
    cos_PD: Tensor
    sin_PD: Tensor
    is_time_PD: Tensor
    turns_kD: Tensor

    def __init__(self, config: BackboneConfig, grid_hw: tuple[int, int], device: torch.device) -> None:
        super().__init__()
        cos_PD, sin_PD, is_time_D = _space_tables(config, grid_hw, 1.0, device, torch.float32)
        is_time_PD = is_time_D & _is_patch(config, grid_hw, device)[:, None] & config.rope_time
        one_D = (1 / config.frames_per_turn / _periods(config)[: config.head_dim // 8]).repeat_interleave(4).repeat(2)
        turns_kD = self.BASE ** torch.arange(self.DIGITS, dtype=torch.float64)[:, None] * one_D
        tables = {"cos_PD": cos_PD, "sin_PD": sin_PD, "is_time_PD": is_time_PD}
        for name, table in (tables | {"turns_kD": (turns_kD - turns_kD.round()).float().to(device)}).items():
            self.register_buffer(name, table.clone())

    def forward(self, frame_B: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosine and sine (B, P, D) of the frames of these numbers (int64)."""
        turns_BD = torch.zeros_like(self.turns_kD[:1])
        for k in range(self.DIGITS):
            part_BD = (frame_B // self.BASE**k % self.BASE).float()[:, None] * self.turns_kD[k]
            turns_BD = turns_BD + (part_BD - part_BD.round())
        angle_B1D = 2 * math.pi * turns_BD[:, None]
        cos_BPD = torch.where(self.is_time_PD, angle_B1D.cos(), self.cos_PD)
        sin_BPD = torch.where(self.is_time_PD, angle_B1D.sin(), self.sin_PD)
        return cos_BPD.to(dtype), sin_BPD.to(dtype)


def _periods(config: BackboneConfig) -> Tensor:
    quarter = config.head_dim // 4
    return config.rope_base ** (torch.arange(quarter, dtype=torch.float64) / quarter)


def _time_angles(config: BackboneConfig, frame_index_BT: Tensor, scale_t: float) -> Tensor:
    """(B, T, D) float64; whole turns are taken off before the sine, so that no digit is lost at large indices."""
    eighth = config.head_dim // 8
    turns_BTe = frame_index_BT.double()[..., None] * (scale_t / config.frames_per_turn) / _periods(config)[:eighth]
    angle_BTe = 2 * math.pi * (turns_BTe - turns_BTe.round())
    # The D/4 time channels are those with index % 4 == 3: channel j takes time angle (j // 4) % (D/8).
    return angle_BTe.repeat_interleave(4, dim=-1).repeat(1, 1, 2)


def _is_patch(config: BackboneConfig, grid_hw: tuple[int, int], device: torch.device) -> Tensor:
    return torch.arange(config.tokens_per_frame(grid_hw), device=device) >= config.prefix_tokens


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # kept tables serve training too, which refuses tensors born in inference mode
def _space_tables(
    config: BackboneConfig, grid_hw: tuple[int, int], scale_yx: float, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Cosine and sine (P, D) of the spatial angles, and which channels belong to time (D)."""
    y_N1, x_N1 = (c.reshape(-1, 1) * scale_yx for c in _grid_coordinates(grid_hw))
    y_Nq, x_Nq = (2 * math.pi * c / _periods(config) for c in (y_N1, x_N1))
    order = (y_Nq, x_Nq, y_Nq, x_Nq) if config.rope_layout == "paired" else (y_Nq, y_Nq, x_Nq, x_Nq)
    angle_ND = torch.cat(order, dim=-1)
    prefix_pD = angle_ND.new_zeros(config.prefix_tokens, config.head_dim)
    angle_PD = torch.cat((prefix_pD, angle_ND))
    is_time_D = torch.arange(config.head_dim, device=device) % 4 == 3
    return angle_PD.cos().to(device, dtype), angle_PD.sin().to(device, dtype), is_time_D


def _grid_coordinates(grid_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Row and column coordinate of every patch centre, (h, w) float64 each, in [-1, 1]."""
    y_h, x_w = (2 * (torch.arange(n, dtype=torch.float64) + 0.5) / n - 1 for n in grid_hw)
    y_hw, x_hw = torch.meshgrid(y_h, x_w, indexing="ij")
    return y_hw, x_hw
