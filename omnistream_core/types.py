"""The plain records that travel through OmniStream, one way.

    Frame -> images -> tokens -> BackboneOutput -> Prediction

Shape letters: B streams, T frames, N patches, L levels, R registers, D channels, H W pixels.
Conventions: camera axes as OpenCV (x right, y down, z forward); metres; the world of a stream is the
camera of its first frame; ``a_from_b`` maps coordinates in frame b to frame a; quaternions are wxyz.
Pixel (row i, column j) covers [j, j+1) x [i, i+1): its centre is at u = j + 0.5, v = i + 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from omnistream_core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class CameraModel:
    """Pinhole intrinsics of an image of ``width_px`` x ``height_px``, as in sensor_msgs/CameraInfo.

    ``fx_px, fy_px, cx_px, cy_px`` are in pixels, principal point in the pixel-corner convention
    above (a ROS/OpenCV ``cx``, which counts pixel centres as integers, is half a pixel smaller).
    ``distortion_model`` and ``distortion`` are carried along for display; rays assume a pinhole.

    Raises:
        ConfigError: a size or focal length that is not positive and finite.
    """

    width_px: int
    height_px: int
    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float
    distortion_model: str = ""
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.width_px <= 0 or self.height_px <= 0:
            raise ConfigError(f"camera size {self.width_px}x{self.height_px} px: both must be positive")
        values = (self.fx_px, self.fy_px, self.cx_px, self.cy_px)
        if not np.isfinite(values).all() or self.fx_px <= 0 or self.fy_px <= 0:
            raise ConfigError(f"camera fx, fy, cx, cy = {values} px: finite, and fx, fy positive, are needed")

    @property
    def matrix_33(self) -> np.ndarray:
        """(3, 3) float64 intrinsic matrix K, pixels."""
        return np.array([[self.fx_px, 0, self.cx_px], [0, self.fy_px, self.cy_px], [0, 0, 1]], dtype=np.float64)

    def resized(self, width_px: int, height_px: int) -> CameraModel:
        """The same camera with its image resized to ``width_px`` x ``height_px``."""
        sx, sy = width_px / self.width_px, height_px / self.height_px
        return CameraModel(
            width_px=width_px,
            height_px=height_px,
            fx_px=self.fx_px * sx,
            fy_px=self.fy_px * sy,
            cx_px=self.cx_px * sx,
            cy_px=self.cy_px * sy,
            distortion_model=self.distortion_model,
            distortion=self.distortion,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One image of one camera, with whatever truth the recording carries.

    Attributes:
        image_HW3: (H, W, 3) uint8, RGB.
        index: position in its source, counted from 0, skipped frames included.
        stamp_ns: time of exposure from the recording's own clock, nanoseconds; None if it has none.
        frame_id: name of the camera's optical frame; "" if unknown.
        camera: intrinsics of this image; None if unknown.
        true_depth_m_HW: (H, W) float32 z-depth in metres at this image's size, 0 where unknown; None without truth.
        true_world_from_camera_44: (4, 4) float64 in the recording's own world; None without truth.
    """

    image_HW3: np.ndarray
    index: int
    stamp_ns: int | None = None
    frame_id: str = ""
    camera: CameraModel | None = None
    true_depth_m_HW: np.ndarray | None = None
    true_world_from_camera_44: np.ndarray | None = None

    @property
    def size_hw(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image_HW3.shape[0], self.image_HW3.shape[1]


@dataclass(frozen=True, kw_only=True, eq=False)
class BackboneOutput:
    """What the backbone says of B streams of T frames.

    Attributes:
        patches_BTND: patch features after the last block and its LayerNorm, row-major over the grid.
        cls_BTD: CLS, the frame's summary, after the same LayerNorm.
        cam_BTD: CAM, the camera token, after the same LayerNorm; None in a model without one.
        registers_BTRD: register tokens after the same LayerNorm.
        levels_BTND: patch features after each block of ``BackboneConfig.levels``, before any LayerNorm.
        grid_hw: (rows, columns) of patches; N = rows * columns.
    """

    patches_BTND: Tensor
    cls_BTD: Tensor
    cam_BTD: Tensor | None
    registers_BTRD: Tensor
    levels_BTND: tuple[Tensor, ...]
    grid_hw: tuple[int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameFeatures:
    """What a session's backbone says of one frame of one stream. CPU numpy arrays.

    Attributes:
        index, stamp_ns, frame_id: copied from the frame.
        stream_index: frames this stream has seen since its last reset, this one not counted.
        features_hwD: (h, w, D) float32 patch features of the last block.
        cls_D: (D,) float32 frame summary.
    """

    index: int
    stream_index: int
    stamp_ns: int | None
    frame_id: str
    features_hwD: np.ndarray
    cls_D: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction(FrameFeatures):
    """What a session says of one frame of one stream, at the size of the input image. CPU numpy arrays.

    Attributes:
        depth_m_HW: (H, W) float32 z-depth along the optical axis, metres, > 0.
        confidence_HW: (H, W) float32, >= 1; larger is surer.
        model_rays_hw6: the ray branch at the model's own size; ``rays_HW6`` has it at the image's.
        world_from_camera_44: (4, 4) float64 rigid pose in the stream's world.
        fov_xy_rad: predicted horizontal and vertical field of view, radians.
        camera: intrinsics that ``points_m_HW3`` uses: the frame's own where it brings them, else from ``fov_xy_rad``.
    """

    depth_m_HW: np.ndarray
    confidence_HW: np.ndarray
    model_rays_hw6: np.ndarray
    world_from_camera_44: np.ndarray
    fov_xy_rad: tuple[float, float]
    camera: CameraModel

    @cached_property
    def rays_HW6(self) -> np.ndarray:
        """(H, W, 6) float32 predicted origin o (metres) and direction d in the stream's world; d has z = 1 in the
        camera's own axes, so that a point is o + depth * d. Computed when first asked for."""
        rays_6hw = torch.from_numpy(self.model_rays_hw6).permute(2, 0, 1)
        rays_6HW = interpolate(rays_6hw[None], size=self.depth_m_HW.shape, mode="bilinear", align_corners=False)[0]
        return np.ascontiguousarray(rays_6HW.permute(1, 2, 0).numpy())

    @cached_property
    def points_m_HW3(self) -> np.ndarray:
        """(H, W, 3) float32 points in the stream's world, metres: P = o + depth * d of ``world_from_camera_44`` and
        ``camera``. Computed when first asked for."""
        height, width = self.depth_m_HW.shape
        x_W = (np.arange(width) + 0.5 - self.camera.cx_px) / self.camera.fx_px
        y_H = (np.arange(height) + 0.5 - self.camera.cy_px) / self.camera.fy_px
        rotation, origin = self.world_from_camera_44[:3, :3], self.world_from_camera_44[:3, 3]
        columns_W3 = (x_W[:, None] * rotation[:, 0]).astype(np.float32)
        rows_H3 = (y_H[:, None] * rotation[:, 1] + rotation[:, 2]).astype(np.float32)
        points = (rows_H3[:, None] + columns_W3[None]) * self.depth_m_HW[..., None]
        points += origin.astype(np.float32)
        return points


@dataclass(frozen=True, kw_only=True, eq=False)
class GeometryOutput:
    """What the geometry heads say of B streams of T frames, at the size of the model's input.

    Attributes:
        depth_m_BTHW: z-depth, metres, > 0.
        confidence_BTHW: >= 1; larger is surer.
        rays_BTHW6: origin o (metres) and direction d (z = 1 in the camera's own axes) in the stream's world.
        quaternion_BT4: unit wxyz, w >= 0 not guaranteed: rotation of world_from_camera.
        translation_m_BT3: metres, of world_from_camera.
        fov_xy_rad_BT2: horizontal and vertical field of view, radians, in (0, pi).
    """

    depth_m_BTHW: Tensor
    confidence_BTHW: Tensor
    rays_BTHW6: Tensor
    quaternion_BT4: Tensor
    translation_m_BT3: Tensor
    fov_xy_rad_BT2: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelOutput:
    """The backbone's features and, where the model has geometry heads, what they say."""

    features: BackboneOutput
    geometry: GeometryOutput | None
