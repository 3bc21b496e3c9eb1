"""What a clip of the procedural world is asked to be, and what comes back.

Shapes: B clips, T frames, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch

HELD_OUT_SEED = 1_000_000_000  # training never draws a world with this seed or a later one; evaluation only those
LABELS = ("class", "normals", "flow")
PLACES = ("room", "corridor", "hall", "tabletop", "open")
CLASSES = (
    "unknown", "wall", "floor", "ceiling", "ground", "sky", "pillar", "rug", "door", "window", "picture", "screen",
    "lamp", "table", "chair", "sofa", "cupboard", "shelf", "bed", "crate", "ball", "drum", "vessel", "book", "toy",
    "plant", "tree", "post", "building", "vehicle", "person", "robot",
)  # fmt: skip
CLASS_ID = {name: i for i, name in enumerate(CLASSES)}


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """Size and statistics of the clips.

    fov_x_deg: horizontal field of view, drawn once per clip. objects: number of free objects (furniture, clutter,
    movers; things on walls come on top). rate_hz: frame rate. speed_scale: range of the per-clip factor on camera and
    object speed. supersample: colour rays per pixel; the first goes through its centre, and depth and ids are what
    that one hits. moving_share: share of clips with moving objects. places: kinds of scenes, each as often as it is
    named. labels: what is computed besides depth and ids, out of LABELS. textures: file of photographs made by
    training/pack_textures.py, None = without.
    """

    height_px: int = 96
    width_px: int = 128
    frames: int = 8
    fov_x_deg: tuple[float, float] = (40.0, 110.0)
    objects: tuple[int, int] = (4, 16)
    rate_hz: float = 10.0
    speed_scale: tuple[float, float] = (0.4, 2.0)
    supersample: int = 3
    moving_share: float = 0.5
    shadows: bool = True
    places: tuple[str, ...] = ("room", "room", "room", "corridor", "hall", "hall", "tabletop", "tabletop", "open")
    labels: tuple[str, ...] = ()
    textures: str | None = None

    def __post_init__(self):
        _check_number("height_px", self.height_px, 4, 4096)
        _check_number("width_px", self.width_px, 4, 4096)
        _check_number("frames", self.frames, 1, 4096)
        _check_number("rate_hz", self.rate_hz, 0.1, 1000.0)
        _check_number("supersample", self.supersample, 1, 16)
        _check_number("moving_share", self.moving_share, 0.0, 1.0)
        _check_range("fov_x_deg", self.fov_x_deg, 20.0, 120.0)
        _check_range("objects", self.objects, 0, 40)
        _check_range("speed_scale", self.speed_scale, 0.0, 4.0)
        _check_names("places", self.places, PLACES)
        _check_names("labels", self.labels, LABELS)
        if not self.places:
            raise ValueError(f"places=() is empty; give one or more of {PLACES}")


def _check_number(name, value, low, high):
    if not low <= value <= high:
        raise ValueError(f"{name}={value!r} must lie in [{low}, {high}]")
    if isinstance(low, int) and int(value) != value:
        raise ValueError(f"{name}={value!r} must be a whole number in [{low}, {high}]")


def _check_range(name, pair, low, high):
    if len(pair) != 2 or not low <= pair[0] <= pair[1] <= high:
        raise ValueError(f"{name}={pair!r} must be (least, greatest) within [{low}, {high}]")


def _check_names(name, values, choices):
    for value in values:
        if value not in choices:
            raise ValueError(f"{name}={values!r} holds {value!r}; choices are [{', '.join(choices)}]")


@dataclass(frozen=True, kw_only=True)
class ClipBatch:
    """Rendered clips. Camera axes as OpenCV: x right, y down, z forward.

    images_BT3HW: uint8 RGB. depth_m_BTHW: float32 distance along the optical axis (not along the ray), metres,
    finite; positive, but 0 = unknown where the sky is seen. world_from_camera_BT44: float32, metres; the world of a
    clip is its first camera. intrinsics_B33: float32, pixels; the centre of pixel (row i, column j) is
    (j + 0.5, i + 0.5). instance_BTHW: int16, 0 = shell of the place and inner walls, 1.. = objects; an object keeps
    its id through the clip.

    Only when named in ``WorldConfig.labels``, else None:
    class_BTHW: int16 index into CLASSES. normals_BT3HW: float32, unit, camera axes, towards the camera.
    flow_BT2HW: float32 pixels (x, y), where the surface point seen at a pixel's centre lies in the next frame less
    where it is; flow_valid_BTHW: bool, whether it is seen there too. The last frame has no flow (0, invalid).
    """

    images_BT3HW: torch.Tensor
    depth_m_BTHW: torch.Tensor
    world_from_camera_BT44: torch.Tensor
    intrinsics_B33: torch.Tensor
    instance_BTHW: torch.Tensor
    class_BTHW: torch.Tensor | None = None
    normals_BT3HW: torch.Tensor | None = None
    flow_BT2HW: torch.Tensor | None = None
    flow_valid_BTHW: torch.Tensor | None = None

    def mapped(self, function: Callable[[torch.Tensor], torch.Tensor]) -> ClipBatch:
        """The same function of every tensor that is there."""
        present = ((f.name, getattr(self, f.name)) for f in fields(self))
        return ClipBatch(**{name: function(value) for name, value in present if value is not None})

    @staticmethod
    def joined(batches: Sequence[ClipBatch]) -> ClipBatch:
        """All clips of batches that carry the same labels."""
        names = [f.name for f in fields(ClipBatch) if getattr(batches[0], f.name) is not None]
        return ClipBatch(**{name: torch.cat([getattr(batch, name) for batch in batches]) for name in names})

    def mirrored(self) -> ClipBatch:
        """The same clips seen in a mirror: x turns its sign in the camera and in the world alike."""
        turn_4 = self.world_from_camera_BT44.new_tensor([-1.0, 1.0, 1.0, 1.0])
        intrinsics_B33 = self.intrinsics_B33.clone()
        intrinsics_B33[:, 0, 2] = self.images_BT3HW.shape[-1] - intrinsics_B33[:, 0, 2]

        def flipped(value, sign=None):
            if value is None:
                return None
            return value.flip(-1) if sign is None else value.flip(-1) * value.new_tensor(sign)[:, None, None]

        return ClipBatch(
            images_BT3HW=flipped(self.images_BT3HW),
            depth_m_BTHW=flipped(self.depth_m_BTHW),
            world_from_camera_BT44=turn_4[:, None] * self.world_from_camera_BT44 * turn_4,
            intrinsics_B33=intrinsics_B33,
            instance_BTHW=flipped(self.instance_BTHW),
            class_BTHW=flipped(self.class_BTHW),
            normals_BT3HW=flipped(self.normals_BT3HW, [-1.0, 1.0, 1.0]),
            flow_BT2HW=flipped(self.flow_BT2HW, [-1.0, 1.0]),
            flow_valid_BTHW=flipped(self.flow_valid_BTHW),
        )
