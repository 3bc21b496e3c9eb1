"""Folders of images, with the camera, depth and poses that may lie beside them.

::

    folder/            or     folder/
      000000.jpg ...            rgb/ (or color/, images/)   the images
                                depth/NAME.png              16-bit, aligned to the image NAME
                                intrinsics.json             width, height, fx, fy, cx, cy [, distortion, depth_scale]
                                poses.txt                   n tx ty tz qx qy qz qw, camera to world

``cx, cy`` count pixel centres as integers, as OpenCV and ROS do. ``depth_scale`` is metres per unit, 0.001 unless
given; 0 is unknown depth. ``n`` is the number in the image's name. Only the images are needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from omnistream_core.errors import ConfigError, SourceError
from omnistream_core.sources.base import (
    IMAGE_SUFFIXES,
    FrameSource,
    counts_text,
    describe_camera,
    pose_from_numbers,
)
from omnistream_core.types import CameraModel, Frame

IMAGE_FOLDERS = ("rgb", "color", "images")


class FolderSource(FrameSource):
    """Images of a folder in natural order (``2.jpg`` before ``10.jpg``), or one image file. No stamps.

    Raises:
        SourceError: no images; an intrinsics.json or poses.txt that does not parse.
    """

    kind = "folder"

    def __init__(self, path: str | Path) -> None:
        super().__init__(str(path))
        root = Path(path)
        self._files = [root] if root.is_file() else image_files(root)
        if not self._files:
            raise SourceError(f"{path}: no images ({', '.join(IMAGE_SUFFIXES)}) in this folder")
        self.length = len(self._files)
        self._depth_folder = root / "depth"
        intrinsics = _read_intrinsics(root / "intrinsics.json")
        self._camera = _camera(intrinsics, root / "intrinsics.json")
        self._depth_scale = float(intrinsics.get("depth_scale", 0.001))
        self._poses = _read_poses(root / "poses.txt")

    def describe(self) -> dict[str, Any]:
        depths = sum((self._depth_folder / f"{file.stem}.png").exists() for file in self._files)
        return {
            **super().describe(),
            "camera": describe_camera(self._camera),
            "depth_images": depths,
            "poses": len(self._poses),
        }

    def _frames(self) -> Iterator[Frame]:
        delivered = 0
        for index, file in enumerate(self._files):
            image_HW3 = self._read_image(file)
            if image_HW3 is None:
                continue
            delivered += 1
            yield Frame(
                image_HW3=image_HW3,
                index=index,
                camera=self._camera,
                true_depth_m_HW=self._read_depth(file, image_HW3.shape[:2]),
                true_world_from_camera_44=self._poses.get(_number(file)),
            )
        if delivered == 0:
            raise SourceError(f"{self.name}: no frame can be read: {counts_text(self.skipped)}")

    def _read_image(self, file: Path) -> np.ndarray | None:
        data = _read_bytes(file)
        if not data:
            self._count(self.skipped, "empty file" if data is not None else "unreadable file", file.name)
            return None
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            self._count(self.skipped, "undecodable image", file.name)
            return None
        height, width = image.shape[:2]
        if self._camera is not None and (self._camera.width_px, self._camera.height_px) != (width, height):
            raise SourceError(
                f"{file}: the image is {width}x{height} px, intrinsics.json is for "
                f"{self._camera.width_px}x{self._camera.height_px} px"
            )
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def _read_depth(self, image_file: Path, size_hw: tuple[int, ...]) -> np.ndarray | None:
        file = self._depth_folder / f"{image_file.stem}.png"
        if not file.exists():
            return None
        data = _read_bytes(file)
        stored_HW = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED) if data else None
        if stored_HW is None or stored_HW.dtype != np.uint16 or stored_HW.shape != size_hw:
            self._count(self.ignored, "depth that is not 16-bit gray of the image's size", file.name)
            return None
        return stored_HW.astype(np.float32) * np.float32(self._depth_scale)


def image_files(root: Path) -> list[Path]:
    """The images that make up the recording at ``root``, in natural order; empty if there are none."""
    for folder in [*(root / name for name in IMAGE_FOLDERS), root]:
        if folder.is_dir():
            files = [file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
            if files:
                return sorted(files, key=lambda file: [(int(p), "") if p.isdigit() else (-1, p) for p in _parts(file)])
    return []


def _parts(file: Path) -> list[str]:
    return re.split(r"(\d+)", file.name)


def _number(file: Path) -> float:
    """The number in a file's name, the last of several; -1 without one."""
    numbers = re.findall(r"\d+(?:\.\d+)?", file.stem)
    return float(numbers[-1]) if numbers else -1.0


def _read_bytes(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except OSError:
        return None


def _read_intrinsics(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{file}: no JSON: {error}") from None
    if not isinstance(content, dict):
        raise SourceError(f"{file}: an object with width, height, fx, fy, cx, cy is needed")
    return content


def _camera(intrinsics: dict[str, Any], file: Path) -> CameraModel | None:
    if "fx" not in intrinsics:
        return None
    try:
        distortion = tuple(float(value) for value in intrinsics.get("distortion", ()))
        return CameraModel(
            width_px=int(intrinsics["width"]),
            height_px=int(intrinsics["height"]),
            fx_px=float(intrinsics["fx"]),
            fy_px=float(intrinsics["fy"]),
            cx_px=float(intrinsics["cx"]) + 0.5,
            cy_px=float(intrinsics["cy"]) + 0.5,
            distortion_model=str(intrinsics.get("model", "")),
            distortion=distortion,
        )
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise SourceError(f"{file}: width, height, fx, fy, cx, cy are needed: {error!r}") from None


def _read_poses(file: Path) -> dict[float, np.ndarray]:
    """First column -> (4, 4) world from camera; lines that are no pose are an error, they would shift the rest."""
    if not file.exists():
        return {}
    poses: dict[float, np.ndarray] = {}
    try:
        rows = np.loadtxt(file, ndmin=2)
    except (OSError, ValueError) as error:
        raise SourceError(f"{file}: {error}") from None
    if rows.size and rows.shape[1] != 8:
        raise SourceError(f"{file}: {rows.shape[1]} columns; n tx ty tz qx qy qz qw are needed")
    for row in rows:
        pose = pose_from_numbers(row[1:4], (row[7], row[4], row[5], row[6]))
        if pose is None:
            raise SourceError(f"{file}: the pose of {row[0]:g} is not finite or has a zero quaternion")
        poses[float(row[0])] = pose
    return poses
