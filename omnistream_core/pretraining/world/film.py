"""From linear light to a picture as a cheap camera takes it: blur, exposure, tone, noise, flicker, JPEG blocks.

Shapes: B clips, F frames, H rows, W columns, P pixels, E effects.
"""

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from .cast import pixel_grid
from .texture import hash_unit

EFFECTS = (
    "exposure", "red", "green", "blue", "gamma", "vignette", "noise", "defocus_px", "seed", "shutter", "jpeg",
    "band", "band_rows", "band_hz", "flicker", "contrast",
)  # fmt: skip
EFFECT = {name: i for i, name in enumerate(EFFECTS)}
CHUNK_FRAMES = 8
_REACH_PX = 3  # half size of the blur kernel
_LINE_POINTS = 7


def sample_effects(rng):
    """Row of EFFECTS for one clip."""
    row = dict(exposure=np.exp(rng.normal(0, 0.35)), gamma=rng.uniform(1.8, 2.6), vignette=rng.uniform(0, 0.6))
    row.update(zip(("red", "green", "blue"), 1 + rng.normal(0, 0.08, size=3).clip(-0.2, 0.2), strict=True))
    row.update(
        noise=np.exp(rng.uniform(np.log(0.001), np.log(0.025))),
        defocus_px=rng.uniform(0.25, 0.5),
        seed=rng.integers(1, 1 << 20),
    )
    row.update(shutter=rng.uniform(0, 0.6), jpeg=0.0, band=0.0, band_rows=rng.uniform(20, 90), flicker=0.0)
    row.update(band_hz=rng.uniform(-3, 3), contrast=rng.uniform(0.85, 1.7))
    chance = rng.random(4)
    if chance[0] < 0.15:
        row["defocus_px"] = rng.uniform(0.5, 1.3)
    if chance[1] < 0.5:
        row["jpeg"] = np.exp(rng.uniform(np.log(0.15), np.log(1.6)))
    if chance[2] < 0.12:
        row["band"] = rng.uniform(0.02, 0.12)
    if chance[3] < 0.2:
        row["flicker"] = rng.uniform(0.02, 0.12)
    return np.array([row[name] for name in EFFECTS], np.float32)


def photograph(kernels, linear_3FP, effects_BE, drift_px_F2, size):
    """uint8 images (B, T, 3, H, W). drift_px_F2: how far the picture moves until the next frame."""
    height, width = size
    clips, frames = len(effects_BE), linear_3FP.shape[1]
    effects_FE = _exposed(effects_BE, linear_3FP).repeat_interleave(frames // clips, 0)
    moment_F = torch.arange(frames // clips, device=linear_3FP.device, dtype=torch.int32).repeat(clips)
    kernel_F1HW = blur_kernels(effects_FE, drift_px_F2)
    grid_2P = pixel_grid(height, width, linear_3FP.device)
    middle_2 = torch.tensor([width / 2 - 0.5, height / 2 - 0.5], device=linear_3FP.device)
    images = []
    for start in range(0, frames, CHUNK_FRAMES):
        part = torch.arange(start, start + CHUNK_FRAMES, device=linear_3FP.device).clamp_max(frames - 1)
        soft_3FP = _blur(linear_3FP[:, part], kernel_F1HW[part], height, width)
        effects_EF = effects_FE[part].T.contiguous()
        sensor_3FP = kernels.develop(soft_3FP, effects_EF, moment_F[part], grid_2P, middle_2)
        pixels_F3HW = sensor_3FP.transpose(0, 1).reshape(CHUNK_FRAMES, 3, height, width)
        pixels_F3HW = jpeg(pixels_F3HW, effects_EF[EFFECT["jpeg"]])
        images.append(pixels_F3HW.round().clamp(0, 255).to(torch.uint8)[: frames - start])
    return torch.cat(images).reshape(clips, -1, 3, height, width)


def _exposed(effects_BE, linear_3FP):
    """Auto-exposure per clip. Summed as integers: it does not depend on the order of the sum."""
    clips = len(effects_BE)
    level_B = (linear_3FP.mean(0).reshape(clips, -1).clamp(0, 4) * 4096).to(torch.int64)
    mean_B = level_B.sum(1).to(torch.float64) / 4096 / level_B.shape[1]
    effects_BE = effects_BE.clone()
    effects_BE[:, 0] = (effects_BE[:, 0] * 0.3 / (mean_B + 0.02)).to(torch.float32)
    return effects_BE


def blur_kernels(effects_FE, drift_px_F2):
    """A Gaussian drawn along the line that the picture moves while the shutter is open: (F, 1, 7, 7)."""
    most_px = 2.0 * _REACH_PX - 1
    trail_F2 = drift_px_F2 * effects_FE[:, EFFECT["shutter"], None]
    trail_F2 = trail_F2 * (most_px / trail_F2.norm(dim=-1, keepdim=True).clamp_min(1e-6)).clamp_max(1.0)
    step_L = torch.linspace(-0.5, 0.5, _LINE_POINTS, device=trail_F2.device)
    tap_X = torch.arange(-_REACH_PX, _REACH_PX + 1, device=trail_F2.device)
    spread_F111 = effects_FE[:, EFFECT["defocus_px"], None, None]
    x_FLX, y_FLX = (
        torch.exp(-0.5 * ((tap_X - step_L[:, None] * trail_F2[:, i, None, None]) / spread_F111) ** 2) for i in range(2)
    )
    kernel_FYX = (y_FLX[..., :, None] * x_FLX[..., None, :]).sum(1)
    return (kernel_FYX / kernel_FYX.sum((1, 2), keepdim=True))[:, None]


def _blur(linear_3FP, kernel_F1HW, height, width):
    frames = linear_3FP.shape[1]
    padded = F.pad(linear_3FP.reshape(3, frames, height, width), (_REACH_PX,) * 4, mode="replicate")
    return F.conv2d(padded, kernel_F1HW, groups=frames).reshape(3, frames, -1).contiguous()


def develop(linear_3FP, effects_EF, moment_F, grid_2P, middle_2):
    """Linear RGB -> sensor values in [0, 255]: vignette, exposure, white balance, tone curve, noise, flicker."""
    effect = {name: effects_EF[i, :, None] for name, i in EFFECT.items()}
    x_P, y_P = (grid_2P[0] - middle_2[0]) / middle_2[0], (grid_2P[1] - middle_2[1]) / middle_2[0]
    fall_FP = (1 - effect["vignette"] * (x_P * x_P + y_P * y_P) * 0.4) * effect["exposure"]
    turn_FP = grid_2P[1] / effect["band_rows"] + moment_F[:, None] * 0.1 * effect["band_hz"]
    fall_FP = fall_FP * (1 + effect["band"] * torch.sin(6.2832 * turn_FP))
    seed_F1 = (effects_EF[EFFECT["seed"]].to(torch.int32) + 7919 * moment_F)[:, None]
    fall_FP = fall_FP * (1 + effect["flicker"] * (2 * hash_unit(seed_F1, seed_F1, seed_F1) - 1))
    channels = []
    for i, name in enumerate(("red", "green", "blue")):
        value_FP = (linear_3FP[i] * fall_FP * effect[name]).clamp_min(1e-5)
        value_FP = value_FP * (1 + 0.12 * value_FP) * torch.rsqrt(1 + 0.55 * value_FP * value_FP)
        value_FP = torch.exp(torch.log(value_FP) / effect["gamma"])
        value_FP = 0.5 + (value_FP - 0.5) * effect["contrast"]
        grain_FP = hash_unit(grid_2P[0], grid_2P[1], seed_F1 + 31 * i)
        grain_FP = grain_FP + hash_unit(grid_2P[0], grid_2P[1], seed_F1 + 31 * i + 11)
        value_FP = value_FP + (grain_FP - 1) * 2.4 * effect["noise"]
        channels.append((value_FP * 255).clamp(0, 255))
    return torch.stack(channels)


@lru_cache(maxsize=4)
def _jpeg_tables(device):
    """Cosine transform (8, 8), RGB -> YCbCr (3, 3) and quantisation steps (3, 8, 8) of the JPEG standard's kind."""
    k = torch.arange(8, dtype=torch.float64)
    dct_88 = torch.cos(math.pi * (2 * k[None] + 1) * k[:, None] / 16) * 0.5
    dct_88[0] /= math.sqrt(2)
    colour_33 = torch.tensor([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])
    step_88 = 8 + 6 * (k[:, None] + k[None]) + 0.6 * (k[:, None] + k[None]) ** 2
    steps_388 = torch.stack([step_88, 1.6 * step_88, 1.6 * step_88])
    return dct_88.float().to(device), colour_33.to(device), steps_388.float().to(device)


def jpeg(pixels_F3HW, coarse_F):
    """Quantise the cosine transform of blocks of 8 x 8. coarse_F: factor on the steps; 0 leaves a frame as it is."""
    if not (coarse_F > 0).any():
        return pixels_F3HW
    dct_88, colour_33, steps_388 = _jpeg_tables(pixels_F3HW.device)
    height, width = pixels_F3HW.shape[-2:]
    padded = F.pad(pixels_F3HW, (0, -width % 8, 0, -height % 8), mode="replicate") - 128
    blocks = padded.unfold(2, 8, 8).unfold(3, 8, 8)  # F, 3, H/8, W/8, 8, 8
    blocks = torch.einsum("cd,fdhwij->fchwij", colour_33, blocks)
    step = (steps_388[:, None, None] * coarse_F[:, None, None, None, None, None]).clamp_min(1e-3)
    blocks = torch.round(dct_88 @ blocks @ dct_88.T / step) * step
    blocks = torch.einsum("cd,fdhwij->fchwij", torch.linalg.inv(colour_33), dct_88.T @ blocks @ dct_88)
    whole = blocks.permute(0, 1, 2, 4, 3, 5).reshape(padded.shape)[..., :height, :width] + 128
    return torch.where(coarse_F[:, None, None, None] > 0, whole, pixels_F3HW)
