"""Recorded clips on disk: one safetensors file a recording, read in pieces; what is broken is skipped and counted.

Shape letters: F frames of a recording, B clips, T frames, H W pixels.

A shard holds ``images_F3HW`` (uint8 RGB), ``depth_mm_FHW`` (uint16, 0 where unknown), ``world_from_camera_F44``
(float32, NaN where unknown) and ``intrinsics_F33`` (float32 pixels, NaN where unknown).
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Generator, Tensor

from omnistream_core.errors import OmniStreamError
from omnistream_core.pretraining.data.batch import Batch, stacked
from omnistream_core.pretraining.world import ClipBatch
from omnistream_core.types import Frame

logger = logging.getLogger(__name__)

TOLERATED = 0.01  # share of broken clips that a run puts up with
JUDGED_AFTER = 100  # clips, before which a share says nothing
NEEDED = ("images_F3HW", "depth_mm_FHW", "world_from_camera_F44", "intrinsics_F33")


class BadDataError(OmniStreamError):
    """Too much of the data is broken."""


@dataclass
class Ledger:
    """What was read and what was skipped, by name and reason."""

    seen: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def good(self) -> None:
        """Count a clip that was read."""
        self.seen += 1

    def bad(self, name: str, reason: str) -> None:
        """Count a clip that was skipped.

        Raises:
            BadDataError: more than ``TOLERATED`` of the clips are broken; counts, reasons and the last name are told.
        """
        self.seen += 1
        self.skipped.append((name, reason))
        logger.warning("skipped %s: %s (%d of %d)", name, reason, len(self.skipped), self.seen)
        if len(self.skipped) > TOLERATED * max(self.seen, JUDGED_AFTER):
            reasons = ", ".join(f"{count} x {why}" for why, count in Counter(r for _, r in self.skipped).most_common())
            raise BadDataError(
                f"{len(self.skipped)} of {self.seen} clips are broken, more than {TOLERATED:.0%}: {reasons};"
                f" last {name}"
            )


def write_shard(path: Path, frames: Iterable[Frame], size_hw: tuple[int, int], ledger: Ledger) -> int:
    """Write a recording's frames at ``size_hw`` pixels to one shard; returns how many.

    Frames are skipped, and named in the ledger, whose image is empty or whose intrinsics are not those of a camera.

    Raises:
        BadDataError: see ``Ledger``; or not one frame was good.
    """
    rows: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for frame in frames:
        name = f"{path.stem}, frame {frame.index}"
        if frame.image_HW3.size == 0 or frame.image_HW3.ndim != 3:
            ledger.bad(name, "empty image")
            continue
        if frame.camera is not None and not _is_camera(torch.as_tensor(frame.camera.matrix_33), frame.camera.width_px):
            ledger.bad(name, "wrong intrinsics")
            continue
        rows.append(_row(frame, size_hw))
        ledger.good()
    if not rows:
        raise BadDataError(f"{path.stem}: no frame that could be read")
    columns = [torch.stack(column).contiguous() for column in zip(*rows, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(zip(NEEDED, columns, strict=True)), path)
    return len(rows)


def _row(frame: Frame, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    import cv2

    height, width = size_hw
    image = cv2.resize(frame.image_HW3, (width, height), interpolation=cv2.INTER_AREA)
    depth = np.zeros(size_hw, np.float32) if frame.true_depth_m_HW is None else frame.true_depth_m_HW
    depth = cv2.resize(np.nan_to_num(depth), (width, height), interpolation=cv2.INTER_NEAREST)
    unknown_44 = np.full((4, 4), np.nan)
    pose = unknown_44 if frame.true_world_from_camera_44 is None else frame.true_world_from_camera_44
    matrix = unknown_44[:3, :3] if frame.camera is None else frame.camera.resized(width, height).matrix_33
    return (
        torch.from_numpy(image).permute(2, 0, 1).contiguous(),
        torch.from_numpy((depth * 1000).clip(0, 65535).astype(np.uint16)),
        torch.from_numpy(np.asarray(pose, np.float32)),
        torch.from_numpy(np.asarray(matrix, np.float32)),
    )


class ShardClips:
    """Clips of ``frames`` frames out of all shards of a folder, at random places and strides.

    Args:
        geometry: whether clips must have depth, poses and intrinsics; those without are skipped as broken.

    Raises:
        BadDataError: a folder without shards.
    """

    def __init__(self, folder: str | Path, *, geometry: bool, strides: tuple[int, ...] = (1, 2, 3)) -> None:
        self.paths = sorted(Path(folder).glob("*.safetensors"))
        self.geometry, self.strides, self.ledger = geometry, strides, Ledger()
        if not self.paths:
            raise BadDataError(f"{folder}: there are no shards (*.safetensors); training/make_shards.py writes them")

    def draw(self, generator: Generator, clips: int, *, frames: int) -> Batch:
        """``clips`` clips; broken ones are skipped, counted and replaced by others."""
        parts: list[tuple[Batch, int]] = []
        while len(parts) < clips:
            path = self.paths[int(torch.randint(len(self.paths), (), generator=generator))]
            place, stride = torch.rand(2, generator=generator).tolist()
            try:
                clip = self._read(path, frames, place, self.strides[int(stride * len(self.strides))])
            except (BrokenClip, SafetensorError, OSError, torch.linalg.LinAlgError) as error:
                self.ledger.bad(path.name, error.args[0] if isinstance(error, BrokenClip) else "unreadable shard")
                continue
            self.ledger.good()
            parts.append((Batch(clips=clip), 0))
        return stacked(parts)

    def _read(self, path: Path, frames: int, place: float, stride: int) -> ClipBatch:
        with safe_open(path, "pt") as file:
            missing = sorted(set(NEEDED) - set(file.keys()))
            if missing:
                raise BrokenClip(f"shard without {', '.join(missing)}")
            columns = {name: file.get_slice(name) for name in NEEDED}
            there = columns["images_F3HW"].get_shape()[0]
            if there < frames:
                raise BrokenClip("clip too short")
            stride = min(stride, (there - 1) // max(1, frames - 1))
            first = int(place * (there - (frames - 1) * stride))
            index = slice(first, first + (frames - 1) * stride + 1)
            images, depth_mm, poses, matrices = (columns[name][index][::stride] for name in NEEDED)
        return self._checked(images, depth_mm.float() / 1000, poses, matrices)

    def _checked(self, images_T3HW: Tensor, depth_m_THW: Tensor, poses_T44: Tensor, matrices_T33: Tensor) -> ClipBatch:
        height, width = images_T3HW.shape[-2:]
        if self.geometry:
            _check_geometry(depth_m_THW, poses_T44, matrices_T33, width)
        matrix_33 = matrices_T33[0].nan_to_num()
        return ClipBatch(
            images_BT3HW=images_T3HW[None],
            depth_m_BTHW=depth_m_THW[None],
            world_from_camera_BT44=(torch.linalg.inv(poses_T44[:1]) @ poses_T44)[None]
            if poses_T44.isfinite().all()
            else torch.eye(4).expand(1, len(poses_T44), 4, 4).clone(),
            intrinsics_B33=matrix_33[None],
            instance_BTHW=torch.zeros(1, len(images_T3HW), height, width, dtype=torch.int16),
        )


class BrokenClip(Exception):
    """A clip that is skipped, and why."""


def _check_geometry(depth_m_THW: Tensor, poses_T44: Tensor, matrices_T33: Tensor, width: int) -> None:
    if not (depth_m_THW > 0).any():
        raise BrokenClip("missing depth")
    if not poses_T44.isfinite().all():
        raise BrokenClip("missing pose")
    if not all(_is_camera(matrix_33, width) for matrix_33 in matrices_T33):
        raise BrokenClip("wrong intrinsics")


def _is_camera(matrix_33: Tensor, width: int) -> bool:
    """Whether it is finite, with positive focal lengths and a field of view of 5 to 170 degrees."""
    focal_x, focal_y = float(matrix_33[0, 0]), float(matrix_33[1, 1])
    if not matrix_33.isfinite().all() or min(focal_x, focal_y) <= 0:
        return False
    return 5 < math.degrees(2 * math.atan(width / 2 / focal_x)) < 170
