"""What a clip of the procedural world is asked to be, and what comes back.

Shapes: B clips, T frames, H rows, W columns.
"""

from dataclasses import dataclass

import torch

HELD_OUT_SEED = 1_000_000_000  # training never draws a world with this seed or a later one; evaluation only those


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """Size and statistics of the clips.

    fov_x_deg: horizontal field of view, drawn once per clip. objects: number of free objects (furniture,
    clutter, movers; things on walls come on top). rate_hz: frame rate. speed_scale: range of the per-clip
    factor on camera and object speed. supersample: colour rays per pixel side; depth and ids use one ray
    through the pixel centre. moving_share: share of clips with moving objects.
    """

    height_px: int = 96
    width_px: int = 128
    frames: int = 8
    fov_x_deg: tuple[float, float] = (45.0, 85.0)
    objects: tuple[int, int] = (3, 10)
    rate_hz: float = 10.0
    speed_scale: tuple[float, float] = (0.5, 1.5)
    supersample: int = 2
    moving_share: float = 0.5
    shadows: bool = True

    def __post_init__(self):
        _check_number("height_px", self.height_px, 4, 4096)
        _check_number("width_px", self.width_px, 4, 4096)
        _check_number("frames", self.frames, 1, 4096)
        _check_number("rate_hz", self.rate_hz, 0.1, 1000.0)
        _check_number("supersample", self.supersample, 1, 4)
        _check_number("moving_share", self.moving_share, 0.0, 1.0)
        _check_range("fov_x_deg", self.fov_x_deg, 20.0, 120.0)
        _check_range("objects", self.objects, 0, 12)
        _check_range("speed_scale", self.speed_scale, 0.0, 4.0)


def _check_number(name, value, low, high):
    if not low <= value <= high:
        raise ValueError(f"{name}={value!r} must lie in [{low}, {high}]")
    if isinstance(low, int) and int(value) != value:
        raise ValueError(f"{name}={value!r} must be a whole number in [{low}, {high}]")


def _check_range(name, pair, low, high):
    if len(pair) != 2 or not low <= pair[0] <= pair[1] <= high:
        raise ValueError(f"{name}={pair!r} must be (least, greatest) within [{low}, {high}]")


@dataclass(frozen=True, kw_only=True)
class ClipBatch:
    """Rendered clips. Camera axes as OpenCV: x right, y down, z forward.

    images_BT3HW: uint8 RGB. depth_m_BTHW: float32 distance along the optical axis (not along the ray), metres,
    finite and positive. world_from_camera_BT44: float32, metres; the world of a clip is its first camera.
    intrinsics_B33: float32, pixels; the centre of pixel (row i, column j) is (j + 0.5, i + 0.5).
    instance_BTHW: int16, 0 = room and inner walls, 1.. = objects; an object keeps its id through the clip.
    """

    images_BT3HW: torch.Tensor
    depth_m_BTHW: torch.Tensor
    world_from_camera_BT44: torch.Tensor
    intrinsics_B33: torch.Tensor
    instance_BTHW: torch.Tensor
