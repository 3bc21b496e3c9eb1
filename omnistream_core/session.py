"""The one object that holds a stream's state: ``StreamSession``. The model itself is stateless.

Shape letters: B streams of a step, T = 1, D channels, h w patch grid, H W pixels.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omnistream_core.cache import FrameSlots, make_cache, retention_of
from omnistream_core.config import StreamConfig
from omnistream_core.errors import ConfigError
from omnistream_core.geometry import intrinsics_from_fov, pose_matrix
from omnistream_core.graphed import GraphedBackbone
from omnistream_core.model import OmniStreamModel
from omnistream_core.native import NativeUnavailable
from omnistream_core.packed import NativeBackbone, check_native
from omnistream_core.preprocess import model_size_hw, to_image_size, to_model
from omnistream_core.types import (
    BackboneOutput,
    CameraModel,
    Frame,
    FrameFeatures,
    GeometryOutput,
    ModelOutput,
    Prediction,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SessionStats:
    """Running figures of a session.

    Attributes:
        frames: frames stepped since the session began, all streams together.
        resets: resets asked for.
        cache_bytes: size of the memory now, all image sizes together.
        last_step_s: duration of the newest step.
    """

    frames: int
    resets: int
    cache_bytes: int
    last_step_s: float


class StreamSession:
    """One or several camera streams through one model, a frame at a time, in bounded memory.

    Streams of one image size are encoded as one batch; each can be reset alone. The session is not thread-safe: a reset
    belongs in the same queue as the frames.

    Args:
        model: in evaluation mode; moved to the configuration's device and dtype.
        config: window, sink, device, dtypes, engine.
        streams: number of streams, numbered from 0.
    """

    def __init__(self, model: OmniStreamModel, config: StreamConfig | None = None, *, streams: int = 1) -> None:
        if streams < 1:
            raise ConfigError(f"session of {streams} streams: at least 1 is needed")
        self.config = config or StreamConfig()
        self.streams = streams
        self._device, self._dtype = _device(self.config.device), getattr(torch, self.config.dtype)
        self.model = model.to(device=self._device, dtype=self._dtype).eval()
        if self.model.heads is not None:
            self.model.heads.lay_out_for_streaming()
        self._native = native_backbone(self.model, self.config)
        self._graphed = GraphedBackbone(self.model.backbone) if _wants_graphs(self._device, self.config) else None
        self._caches: dict[tuple[int, int], FrameSlots] = {}
        self._size_of_stream: dict[int, tuple[int, int]] = {}
        self._frames = self._resets = 0
        self._last_step_s = 0.0

    @classmethod
    def from_pretrained(
        cls, name: str | Path, config: StreamConfig | None = None, *, streams: int = 1, revision: str | None = None
    ) -> StreamSession:
        """A session of a bundled checkpoint, a folder or a hub id; see ``OmniStreamModel.from_pretrained``."""
        return cls(OmniStreamModel.from_pretrained(name, revision=revision), config, streams=streams)

    @property
    def stats(self) -> SessionStats:
        """Running figures."""
        return SessionStats(
            frames=self._frames,
            resets=self._resets,
            cache_bytes=sum(cache.nbytes for cache in self._caches.values()),
            last_step_s=self._last_step_s,
        )

    @property
    def engine(self) -> str:
        """What computes the backbone: ``native`` kernels, a captured CUDA ``graph``, or ``torch``."""
        return "native" if self._native is not None else "torch" if self._graphed is None else "graph"

    def step(self, frame: Frame, *, stream: int = 0) -> Prediction:
        """Take the next frame of one stream.

        Raises:
            ConfigError: a model without geometry heads, an image of another size than the stream's so far, a camera
                model of another size than the image, a stream that does not exist.
        """
        return self.step_many({stream: frame})[stream]

    def step_many(self, frames: Mapping[int, Frame]) -> dict[int, Prediction]:
        """Take the next frame of several streams, ``{stream: frame}``; streams without a frame just wait."""
        if self.model.heads is None:
            raise ConfigError("this checkpoint is a backbone without geometry heads: it has encode(), not step()")
        return {
            stream: _prediction(frames[stream], features, output.geometry, b)
            for output, rows, records in self._run(frames, heads=True)
            for b, (stream, features) in enumerate(zip(rows, records, strict=True))
            if output.geometry is not None
        }

    def encode(self, frame: Frame, *, stream: int = 0) -> FrameFeatures:
        """Take the next frame of one stream through the backbone alone.

        It is remembered as by ``step``, so the two may be mixed: geometry for every k-th frame, or when it is wanted.
        """
        return self.encode_many({stream: frame})[stream]

    def encode_many(self, frames: Mapping[int, Frame]) -> dict[int, FrameFeatures]:
        """Take the next frame of several streams through the backbone alone."""
        return {
            stream: record
            for _, rows, records in self._run(frames, heads=False)
            for stream, record in zip(rows, records, strict=True)
        }

    def reset(self, streams: Iterable[int] | None = None) -> None:
        """Forget streams (all by default): their next frame is the first of a new world, and may have another size."""
        for stream in range(self.streams) if streams is None else streams:
            self._check_stream(stream)
            size_hw = self._size_of_stream.pop(stream, None)
            if size_hw is not None:
                self._caches[size_hw].reset([stream])
        self._resets += 1

    def warm_up(self, image_hw: tuple[int, int]) -> None:
        """Allocate the memory for images of this size and run one blank frame a stream, then forget it.

        Raises:
            ConfigError: a stream has begun already.
        """
        if self._size_of_stream:
            raise ConfigError(f"warm_up while streams {sorted(self._size_of_stream)} run: reset them first")
        figures = self._frames, self._resets, self._last_step_s
        blank = Frame(image_HW3=np.zeros((*image_hw, 3), np.uint8), index=0)
        run = self.encode_many if self.model.heads is None else self.step_many
        run(dict.fromkeys(range(self.streams), blank))
        self.reset()
        self._frames, self._resets, self._last_step_s = figures

    def stream_index(self, stream: int = 0) -> int:
        """Frames the stream has seen since its last reset."""
        size_hw = self._size_of_stream.get(stream)
        return 0 if size_hw is None else self._caches[size_hw].frame_count(stream)

    def fill(self, stream: int = 0) -> int:
        """Frames the stream remembers."""
        size_hw = self._size_of_stream.get(stream)
        return 0 if size_hw is None else self._caches[size_hw].fill(stream)

    def _run(
        self, frames: Mapping[int, Frame], *, heads: bool
    ) -> list[tuple[ModelOutput, list[int], list[FrameFeatures]]]:
        start = time.perf_counter()
        groups: dict[tuple[int, int], list[int]] = {}
        for stream in sorted(frames):
            groups.setdefault(self._size(stream, frames[stream]), []).append(stream)
        results = [self._run_group(size_hw, rows, frames, heads) for size_hw, rows in groups.items()]
        self._frames += len(frames)
        self._last_step_s = time.perf_counter() - start
        return results

    @torch.inference_mode()
    def _run_group(
        self, size_hw: tuple[int, int], rows: list[int], frames: Mapping[int, Frame], heads: bool
    ) -> tuple[ModelOutput, list[int], list[FrameFeatures]]:
        images_B3HW = [
            to_model(self.model.config.preprocess, frames[row].image_HW3, size_hw, self._device) for row in rows
        ]
        images_BT3HW = torch.stack(images_B3HW)[:, None].to(self._dtype)
        cache = self._cache(size_hw)
        seen = [cache.frame_count(row) for row in rows]
        features = (self._native or self._graphed or self.model.backbone)(images_BT3HW, cache, rows=rows)
        geometry = self.model.heads(features) if heads and self.model.heads is not None else None
        output = ModelOutput(features=features, geometry=geometry)
        self._size_of_stream.update(dict.fromkeys(rows, size_hw))
        patches, summary = _numpy(output.features.patches_BTND[:, 0]), _numpy(output.features.cls_BTD[:, 0])
        records = [
            _features(frames[row], seen[b], patches[b], summary[b], output.features) for b, row in enumerate(rows)
        ]
        return output, rows, records

    def _size(self, stream: int, frame: Frame) -> tuple[int, int]:
        self._check_stream(stream)
        _check_frame(frame)
        patch_px = self.model.config.backbone.patch_px
        size_hw = model_size_hw(self.model.config.preprocess, frame.size_hw, patch_px)
        known = self._size_of_stream.get(stream, size_hw)
        if known != size_hw:
            raise ConfigError(
                f"stream {stream}: an image of {frame.size_hw[0]}x{frame.size_hw[1]} px is seen at "
                f"{size_hw[0]}x{size_hw[1]} px, those before it at {known[0]}x{known[1]} px; reset the stream first"
            )
        return size_hw

    def _cache(self, size_hw: tuple[int, int]) -> Any:
        if size_hw not in self._caches:
            self._drop_idle_caches()
            config, backbone = self.config, self.model.config.backbone
            grid_hw, dtype = self.model.backbone.grid_hw(size_hw), getattr(torch, config.cache_dtype or config.dtype)
            settings = {
                "grid_hw": grid_hw,
                "streams": self.streams,
                "keeps": retention_of(config, backbone, grid_hw=grid_hw, streams=self.streams, dtype=dtype),
                "dtype": dtype,
                "block_frames": config.block_frames,
            }
            if self._native is not None:
                self._caches[size_hw] = self._native.memory(**settings)
            else:
                self._caches[size_hw] = make_cache(backbone, device=self._device, **settings)
        return self._caches[size_hw]

    def _drop_idle_caches(self) -> None:
        """Make room for one more: there are never more memories than streams, however many sizes come by."""
        in_use = set(self._size_of_stream.values())
        for size_hw in [size for size in self._caches if size not in in_use]:
            if len(self._caches) >= self.streams:
                del self._caches[size_hw]

    def _check_stream(self, stream: int) -> None:
        if not 0 <= stream < self.streams:
            raise ConfigError(f"stream {stream} does not exist: the session has 0..{self.streams - 1}")


def native_backbone(model: OmniStreamModel, config: StreamConfig) -> NativeBackbone | None:
    """The native path where it is wanted and serves; None leaves the work to torch.

    Raises:
        NativeUnavailable: it, or weights that it alone multiplies, were asked for by name, and it cannot.
    """
    if config.engine == "torch":
        return None
    try:
        if _device(config.device).type != "cpu":
            raise NativeUnavailable(f"engine 'native' is for CPUs, the device is {config.device!r}")
        dtype, weight_dtype = getattr(torch, config.dtype), config.weight_dtype and getattr(torch, config.weight_dtype)
        check_native(model.config.backbone, dtype, getattr(torch, config.cache_dtype or config.dtype))
        return NativeBackbone(model.backbone, dtype, weight_dtype=weight_dtype)
    except NativeUnavailable as reason:
        if config.engine == "native" or config.weight_dtype is not None:
            raise
        _log.info("torch computes the backbone: %s", reason)
        return None


def _wants_graphs(device: torch.device, config: StreamConfig) -> bool:
    return device.type == "cuda" and config.engine == "auto"


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r}: {str(error).splitlines()[0]}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name!r}: this machine has no CUDA device that torch can use; 'cpu' works")
    return device


def _check_frame(frame: Frame) -> None:
    image = frame.image_HW3
    if not isinstance(image, np.ndarray):
        raise ConfigError(f"frame {frame.index}: image is a {type(image).__name__}; a uint8 (H, W, 3) array is needed")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ConfigError(f"frame {frame.index}: image is {image.dtype} {image.shape}; uint8 (H, W, 3) is needed")
    camera = frame.camera
    if camera is not None and (camera.height_px, camera.width_px) != frame.size_hw:
        raise ConfigError(
            f"frame {frame.index}: the camera model is of {camera.width_px}x{camera.height_px} px, the image of "
            f"{frame.size_hw[1]}x{frame.size_hw[0]} px"
        )


def _features(
    frame: Frame, stream_index: int, patches_ND: np.ndarray, cls_D: np.ndarray, output: BackboneOutput
) -> FrameFeatures:
    return FrameFeatures(
        index=frame.index,
        stream_index=stream_index,
        stamp_ns=frame.stamp_ns,
        frame_id=frame.frame_id,
        features_hwD=patches_ND.reshape(*output.grid_hw, -1),
        cls_D=cls_D,
    )


def _prediction(frame: Frame, features: FrameFeatures, geometry: GeometryOutput, b: int) -> Prediction:
    height, width = frame.size_hw
    maps_2hw = torch.stack((geometry.depth_m_BTHW[b, 0].log(), geometry.confidence_BTHW[b, 0]))
    log_depth_HW, confidence_HW = to_image_size(maps_2hw, (height, width))
    fov_2 = geometry.fov_xy_rad_BT2[b, 0].double().cpu()
    pose_44 = pose_matrix(geometry.quaternion_BT4[b, 0].double().cpu(), geometry.translation_m_BT3[b, 0].double().cpu())
    return Prediction(
        **vars(features),
        depth_m_HW=_numpy(log_depth_HW.exp()),
        confidence_HW=_numpy(confidence_HW),
        model_rays_hw6=_numpy(geometry.rays_BTHW6[b, 0]),
        world_from_camera_44=pose_44.numpy(),
        fov_xy_rad=(float(fov_2[0]), float(fov_2[1])),
        camera=frame.camera or _camera_from_fov(fov_2, height, width),
    )


def _camera_from_fov(fov_2: Tensor, height: int, width: int) -> CameraModel:
    matrix = intrinsics_from_fov(fov_2, height, width)
    return CameraModel(
        width_px=width,
        height_px=height,
        fx_px=float(matrix[0, 0]),
        fy_px=float(matrix[1, 1]),
        cx_px=float(matrix[0, 2]),
        cy_px=float(matrix[1, 2]),
    )


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()
