"""From camera images to features: the same numbers for a training clip, for a cached episode and for the live robot.

Shape letters: B samples or streams, T frames, N patches, D channels, H W pixels, X any leading axes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lerobot_policy_omnistream.configuration_omnistream import OmnistreamConfig
from lerobot_policy_omnistream.errors import PolicyError
from omnistream_core.backbone import Backbone
from omnistream_core.cache import KVCache
from omnistream_core.checkpoint import read_checkpoint, resolve, weights_hash
from omnistream_core.config import PRESETS, ModelConfig, preset
from omnistream_core.errors import CheckpointError, ConfigError
from omnistream_core.native import NativeUnavailable
from omnistream_core.packed import NativeBackbone, PackedCache
from omnistream_core.preprocess import model_size_hw, normalise
from omnistream_core.types import BackboneOutput

RANDOM = "random:"


class Encoder(nn.Module):
    """The backbone without its geometry heads, and how images are made ready for it. Stateless."""

    def __init__(self, model_config: ModelConfig, config: OmnistreamConfig) -> None:
        super().__init__()
        self.backbone = Backbone(model_config.backbone)
        self.preprocess = model_config.preprocess
        if config.image_area_px is not None:
            self.preprocess = replace(self.preprocess, area_px=config.image_area_px)
        self.levels = tuple(config.levels)
        self.stream_frames, self.window, self.sink = config.stream_frames, config.window, config.sink
        offered = model_config.backbone.levels
        for level in self.levels:
            if level not in offered:
                raise PolicyError(
                    f"levels names block {level}; {config.backbone!r} offers {', '.join(map(str, offered))}"
                )

    @property
    def width(self) -> int:
        """Channels of a patch's features (D)."""
        return self.backbone.config.width * (1 + len(self.levels))

    def grid_hw(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches of an image."""
        return self.backbone.grid_hw(self._size_hw(image_hw))

    def prepare(self, images_X3HW: Tensor) -> Tensor:
        """RGB in 0..1 to the backbone's input; whatever the image came from, it passes through 8 bits."""
        images_X3HW = (images_X3HW * 255).round()
        size_hw = self._size_hw(tuple(images_X3HW.shape[-2:]))
        if tuple(images_X3HW.shape[-2:]) != size_hw:
            flat_Y3HW = images_X3HW.flatten(0, -4)
            flat_Y3HW = F.interpolate(flat_Y3HW, size=size_hw, mode="bilinear", align_corners=False, antialias=True)
            images_X3HW = flat_Y3HW.unflatten(0, images_X3HW.shape[:-3])
        return normalise(self.preprocess, images_X3HW)

    def forward(self, ready_BT3HW: Tensor) -> Tensor:
        """(B, T, N, D) features of clips that ``prepare`` made ready: the chosen levels, then the last block."""
        return self.chosen(self.backbone(ready_BT3HW))

    def chosen(self, output: BackboneOutput) -> Tensor:
        """(B, T, N, D) what is read of what the backbone gives."""
        chosen = [output.levels_BTND[self.backbone.config.levels.index(level)] for level in self.levels]
        return torch.cat([*chosen, output.patches_BTND], dim=-1)

    def newest(self, images_BT3HW: Tensor, frame_index_B: Tensor) -> Tensor:
        """(B, N, D) features of each clip's last frame, as the robot had them.

        Args:
            images_BT3HW: the last ``stream_frames`` frames; those before the stream began are ignored.
            frame_index_B: of the last frame in its episode, from 0.
        """
        b, t = images_BT3HW.shape[:2]
        seen_B = (frame_index_B % (self.stream_frames or t) + 1).clamp(max=t)
        last = int(seen_B.max())
        # Each stream's first frame to the front; what then follows its last frame is causal, and changes nothing.
        frame_BT = (t - seen_B[:, None] + torch.arange(last, device=seen_B.device)).clamp(max=t - 1)
        clips_BT3HW = images_BT3HW[torch.arange(b, device=seen_B.device)[:, None], frame_BT]
        return self(self.prepare(clips_BT3HW))[torch.arange(b, device=seen_B.device), seen_B - 1]

    def key(self) -> dict[str, Any]:
        """All that decides the features of an episode, as plain values."""
        return {
            "backbone": weights_hash(self.backbone),
            "architecture": json.loads(json.dumps(asdict(self.backbone.config))),
            "preprocess": [list(self.preprocess.mean), list(self.preprocess.std), self.preprocess.area_px],
            "levels": list(self.levels),
            "stream_frames": self.stream_frames,
            "window": self.window if self.stream_frames is None else None,
            "sink": self.sink if self.stream_frames is None else None,
        }

    def _size_hw(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        return model_size_hw(self.preprocess, image_hw, self.backbone.config.patch_px)


class Streams:
    """The memory of B rows (environments, robots) of the same cameras: one batched cache for each image size.

    Every observation must be pushed; a row can be reset alone. On a CPU the native kernels compute what the backbone
    would, where they serve: features differ by rounding alone.
    """

    def __init__(self, encoder: Encoder, cameras: Iterable[str], rows: int) -> None:
        self._encoder, self.rows = encoder, rows
        self._cameras = tuple(cameras)
        self._native = native_backbone(encoder.backbone)
        self._caches: dict[tuple[int, int], KVCache | PackedCache] = {}

    @torch.no_grad()
    def push(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The next image of every row and camera, (B, 3, H, W) in 0..1, to features (B, N, D)."""
        self._begin_anew()
        features: dict[str, Tensor] = {}
        for grid_hw, cameras in self._by_grid(images).items():
            ready_BT3HW = torch.cat([self._encoder.prepare(images[camera]) for camera in cameras])[:, None]
            cache = self._cache(grid_hw, len(cameras), ready_BT3HW)
            features_BND = self._encoder.chosen((self._native or self._encoder.backbone)(ready_BT3HW, cache))[:, 0]
            features |= dict(zip(cameras, features_BND.chunk(len(cameras)), strict=True))
        return features

    def reset(self, rows: Iterable[int] | None = None) -> None:
        """Forget rows, all by default."""
        chosen = list(range(self.rows) if rows is None else rows)
        for cache in self._caches.values():
            cache.reset([stream for stream in range(cache.streams) if stream % self.rows in chosen])

    def frame_count(self, row: int) -> int:
        """Frames in the row's stream so far."""
        return max((cache.frame_count(row) for cache in self._caches.values()), default=0)

    def _begin_anew(self) -> None:
        limit = self._encoder.stream_frames
        if limit is not None:
            self.reset([row for row in range(self.rows) if self.frame_count(row) >= limit])

    def _by_grid(self, images: Mapping[str, Tensor]) -> dict[tuple[int, int], list[str]]:
        groups: dict[tuple[int, int], list[str]] = {}
        for camera in self._cameras:
            groups.setdefault(self._encoder.grid_hw(tuple(images[camera].shape[-2:])), []).append(camera)
        return groups

    def _cache(self, grid_hw: tuple[int, int], cameras: int, like: Tensor) -> KVCache | PackedCache:
        """Streams are numbered camera by camera: stream = camera * rows + row."""
        if grid_hw not in self._caches:
            limit = self._encoder.stream_frames
            memory: dict[str, Any] = {
                "grid_hw": grid_hw,
                "streams": cameras * self.rows,
                "window": self._encoder.window if limit is None else limit,
                "sink": self._encoder.sink if limit is None else 0,
            }
            if self._native is not None:
                self._caches[grid_hw] = self._native.memory(**memory)
            else:
                config = self._encoder.backbone.config
                self._caches[grid_hw] = KVCache(config, **memory, dtype=like.dtype, device=like.device)
        return self._caches[grid_hw]


def native_backbone(backbone: Backbone) -> NativeBackbone | None:
    """The backbone in native kernels; None where this device, processor or backbone has none."""
    parameter = next(backbone.parameters())
    if parameter.device.type != "cpu":
        return None
    try:
        return NativeBackbone(backbone, parameter.dtype)
    except NativeUnavailable:
        return None


def build_encoder(config: OmnistreamConfig) -> Encoder:
    """The encoder with its backbone's weights; writes ``config.backbone_config``.

    Raises:
        PolicyError: no such backbone.
    """
    try:
        model_config, tensors = _read_backbone(config.backbone)
    except (CheckpointError, ConfigError) as error:
        raise PolicyError(f"backbone {config.backbone!r}: {error}") from error
    config.backbone_config = json.loads(json.dumps(replace(model_config, heads=None).to_dict()))
    encoder = _empty_encoder(model_config, config)
    encoder.backbone.load_state_dict(tensors)
    return encoder


def saved_encoder(config: OmnistreamConfig) -> Encoder:
    """The encoder of a saved policy, whatever has become of the checkpoint it was made from: built of
    ``config.backbone_config`` and filled with NaN, for the saved weights to replace.

    Raises:
        PolicyError: a policy that was saved without.
    """
    if config.backbone_config is None:
        raise PolicyError("the saved policy does not say what its backbone is built of (backbone_config)")
    encoder = _empty_encoder(ModelConfig.from_dict(config.backbone_config), config)
    for parameter in encoder.parameters():
        nn.init.constant_(parameter, float("nan"))
    return encoder


def _empty_encoder(model_config: ModelConfig, config: OmnistreamConfig) -> Encoder:
    """To be filled; it is run as it is deployed, also where it is trained."""
    return Encoder(model_config, config).eval().requires_grad_(not config.freeze_backbone)


def _read_backbone(name: str) -> tuple[ModelConfig, dict[str, Tensor]]:
    if name.startswith(RANDOM):
        return _random_backbone(name.removeprefix(RANDOM))
    model_config, tensors = read_checkpoint(resolve(name))
    prefix = "backbone."
    return model_config, {k.removeprefix(prefix): v.float() for k, v in tensors.items() if k.startswith(prefix)}


def _random_backbone(size: str) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The same random weights every time."""
    if size not in PRESETS:
        raise ConfigError(f"choose {', '.join(RANDOM + name for name in PRESETS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = Backbone(preset(size).backbone)
        backbone.init_weights()
    return preset(size), backbone.state_dict()
