"""Settings of a model and of a stream. Frozen, keyword-only, checked when built, saved as JSON beside the weights."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from omnistream_core.errors import ConfigError

RopeLayout = Literal["paired", "official"]
DType = Literal["float32", "bfloat16", "float16"]
CacheDType = Literal["float32", "bfloat16", "float16", "int8", "float8_e4m3fn"]
WeightDType = Literal["int8"]
Engine = Literal["auto", "torch", "native"]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _require_whole(config: Any, kind: str, least: int, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(
            isinstance(value, int) and not isinstance(value, bool) and value >= least,
            f"{kind} {name} = {value!r}: a whole number from {least} is needed",
        )


def _require_flag(config: Any, kind: str, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(isinstance(value, bool), f"{kind} {name} = {value!r}: True or False is needed")


def _is_finite(*values: Any) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values)


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """The causal vision transformer.

    Attributes:
        width: channels of a token (D).
        depth: number of blocks.
        heads: attention heads; ``width / heads`` must be a multiple of 8 (3D-RoPE shares it among t, y, x).
        patch_px: side of a square patch, pixels.
        mlp_ratio: hidden width of the MLP over ``width``.
        registers: register tokens a frame.
        camera_token: whether a frame carries a CAM token; pose needs one.
        aspect_embedding: whether CAM adds a linear embedding of log(height / width).
        levels: blocks (counted from 0) whose patch tokens the dense heads read.
        rope_base: ratio of the longest to the shortest period.
        rope_layout: ``paired`` rotates each channel pair by one angle; ``official`` is the layout of the published
            weights, whose pairs take the y angle in one half and the x angle in the other.
        rope_time: whether every fourth channel turns with time; off reproduces DINOv3 on an image.
        frames_per_turn: frames to one unit of the time coordinate (16 in the paper).
        rope_rescale: in training, coordinates are rescaled log-uniformly by up to this factor; 1 switches it off.
        layer_norm_eps: epsilon of every LayerNorm.
        layer_scale_init: initial value of LayerScale.
    """

    width: int
    depth: int
    heads: int
    levels: tuple[int, ...]
    patch_px: int = 16
    mlp_ratio: float = 4.0
    registers: int = 4
    camera_token: bool = True
    aspect_embedding: bool = True
    rope_base: float = 100.0
    rope_layout: RopeLayout = "paired"
    rope_time: bool = True
    frames_per_turn: int = 16
    rope_rescale: float = 2.0
    layer_norm_eps: float = 1e-5
    layer_scale_init: float = 1e-5

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(self.levels))
        _require_whole(self, "backbone", 1, "width", "depth", "heads", "patch_px", "frames_per_turn")
        _require_whole(self, "backbone", 0, "registers")
        _require_flag(self, "backbone", "camera_token", "aspect_embedding", "rope_time")
        for name in ("mlp_ratio", "rope_base", "rope_rescale", "layer_norm_eps", "layer_scale_init"):
            value = getattr(self, name)
            _require(_is_finite(value), f"backbone {name} = {value!r}: a finite number is needed")
        _require(
            self.width % (8 * self.heads) == 0,
            f"backbone width {self.width} with {self.heads} heads: the width must be a multiple of 8 * heads",
        )
        _require(
            all(isinstance(level, int) and 0 <= level < self.depth for level in self.levels)
            and list(self.levels) == sorted(set(self.levels)),
            f"backbone levels {self.levels}: ascending block numbers from 0 to {self.depth - 1} are needed",
        )
        _require(
            self.rope_layout in get_args(RopeLayout),
            f"backbone rope_layout {self.rope_layout!r}: one of {get_args(RopeLayout)} is needed",
        )
        _require(
            round(self.width * self.mlp_ratio) >= 1,
            f"backbone mlp_ratio = {self.mlp_ratio}: at least one hidden channel is needed",
        )
        _require(self.layer_norm_eps > 0, f"backbone layer_norm_eps = {self.layer_norm_eps}: more than 0 is needed")
        _require(self.rope_base > 1, f"backbone rope_base = {self.rope_base}: more than 1 is needed")
        _require(self.rope_rescale >= 1, f"backbone rope_rescale = {self.rope_rescale}: 1 or more is needed")

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.width // self.heads

    @property
    def prefix_tokens(self) -> int:
        """Tokens of a frame that stand before its patches: CLS, CAM, registers."""
        return 1 + int(self.camera_token) + self.registers

    def tokens_per_frame(self, grid_hw: tuple[int, int]) -> int:
        """Tokens of a frame of ``grid_hw`` patches."""
        return self.prefix_tokens + grid_hw[0] * grid_hw[1]


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The geometry heads.

    Attributes:
        features: channels of the dense head's pyramid and of its depth branch.
        ray_features: channels of its ray branch.
        camera_hidden: hidden width of the camera MLP.
    """

    features: int
    ray_features: int
    camera_hidden: int

    def __post_init__(self) -> None:
        _require_whole(self, "head", 2, "features", "ray_features")  # the branches halve them
        _require_whole(self, "head", 1, "camera_hidden")


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """How an RGB image becomes the backbone's input; travels with the weights.

    Attributes:
        mean, std: of RGB in [0, 1].
        area_px: images are resized, aspect kept, to about this many pixels; None keeps their size. Either way both
            sides are rounded to multiples of the patch.
    """

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    area_px: int | None = 224 * 224

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        for name in ("mean", "std"):
            values = getattr(self, name)
            _require(
                len(values) == 3 and _is_finite(*values), f"preprocess {name} {values}: three finite values are needed"
            )
        _require(min(self.std) > 0, f"preprocess std {self.std}: positive values are needed")
        if self.area_px is not None:
            _require_whole(self, "preprocess", 1, "area_px")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """All that is needed to build a model and feed it."""

    backbone: BackboneConfig
    heads: HeadConfig | None
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)

    def __post_init__(self) -> None:
        if self.heads is not None:
            _require(len(self.backbone.levels) == 4, f"the dense head reads 4 levels, not {len(self.backbone.levels)}")
            _require(self.backbone.camera_token, "the camera head needs backbone.camera_token = True")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """The inverse of ``to_dict``.

        Raises:
            ConfigError: a missing or unknown field, or a value out of range.
        """
        unknown = sorted(set(values) - {f.name for f in dataclasses.fields(cls)} - {"model_type"})
        _require(not unknown, f"a model configuration does not know {unknown}")
        heads = values.get("heads")
        return cls(
            backbone=_build(BackboneConfig, values.get("backbone") or {}),
            heads=None if heads is None else _build(HeadConfig, heads),
            preprocess=_build(PreprocessConfig, values.get("preprocess") or {}),
        )


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """How a session runs a model.

    Attributes:
        window: recent frames kept in memory, the newest included; None keeps all, memory then grows, unless
            ``cache_mb`` bounds it: then as many as fit.
        sink: first frames of a stream that are kept for ever beside the window.
        older: slots for frames that have left the window; 0 forgets them.
        older_every: frames in a row that share such a slot.
        older_mean: whether it holds the mean of their keys and values, or the first of them.
        cache_mb: bound of the memory of one image size, all streams together, in units of 2^20 bytes.
        device: torch device.
        dtype: of weights and activations.
        cache_dtype: of the key/value memory; None takes ``dtype``. int8 and float8_e4m3fn come with a scale a head and
            channel.
        weight_dtype: int8 rounds the weights of the blocks' linear layers (one unit an output channel) and multiplies
            them with tokens rounded to a byte, in the native kernels alone; None takes ``dtype``.
        engine: ``torch`` is the plain path; ``native`` the C++ kernels for CPUs (see ``packed.py``), built with g++ at
            the first start; ``auto`` takes these on a CPU and captured graphs on CUDA (see ``graphed.py``) where they
            serve, and the plain path where not.
        block_frames: an unbounded memory grows by at least this many frames at a time.
    """

    window: int | None = 16
    sink: int = 1
    device: str = "cpu"
    dtype: DType = "float32"
    cache_dtype: CacheDType | None = None
    weight_dtype: WeightDType | None = None
    block_frames: int = 16
    older: int = 0
    older_every: int = 4
    older_mean: bool = True
    cache_mb: float | None = None
    engine: Engine = "auto"

    def __post_init__(self) -> None:
        if self.window is not None:
            _require_whole(self, "stream", 1, "window")
        _require_whole(self, "stream", 0, "sink", "older")
        _require_whole(self, "stream", 1, "block_frames", "older_every")
        _require_flag(self, "stream", "older_mean")
        _require(self.dtype in get_args(DType), f"stream dtype {self.dtype!r}: one of {get_args(DType)} is needed")
        _require(
            self.cache_dtype is None or self.cache_dtype in get_args(CacheDType),
            f"stream cache_dtype {self.cache_dtype!r}: one of {get_args(CacheDType)} is needed",
        )
        _require(
            self.weight_dtype is None or self.weight_dtype in get_args(WeightDType),
            f"stream weight_dtype {self.weight_dtype!r}: one of {get_args(WeightDType)}, or None, is needed",
        )
        _require(
            self.weight_dtype is None or self.engine != "torch",
            f"stream weight_dtype {self.weight_dtype!r} with engine 'torch': only the native kernels multiply it",
        )
        _require(self.engine in get_args(Engine), f"stream engine {self.engine!r}: one of {get_args(Engine)} is needed")
        _require(
            self.cache_mb is None or (_is_finite(self.cache_mb) and self.cache_mb > 0),
            f"stream cache_mb = {self.cache_mb!r}: a positive number, or None, is needed",
        )
        _require(
            not self.older or self.window is not None or self.cache_mb is not None,
            f"stream older = {self.older} without a window: nothing ever leaves a memory that keeps all",
        )


def _build(kind: type, values: dict[str, Any]) -> Any:
    _require(isinstance(values, dict), f"{kind.__name__} {values!r}: named fields are needed")
    known = {f.name for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - known)
    _require(not unknown, f"{kind.__name__} does not know {unknown}; it knows {sorted(known)}")
    try:
        return kind(**values)
    except TypeError as error:
        raise ConfigError(f"{kind.__name__}: {error}") from error


_BACKBONES = {
    "tiny": BackboneConfig(width=192, depth=8, heads=3, levels=(1, 3, 5, 7), rope_rescale=1.0, layer_scale_init=0.1),
    "small": BackboneConfig(width=384, depth=12, heads=6, levels=(2, 5, 8, 11), layer_scale_init=0.1),
    "base": BackboneConfig(width=768, depth=12, heads=12, levels=(2, 5, 8, 11)),
    "large": BackboneConfig(width=1024, depth=24, heads=16, levels=(4, 11, 17, 23)),
}
_HEADS = {
    "tiny": HeadConfig(features=48, ray_features=16, camera_hidden=192),
    "small": HeadConfig(features=64, ray_features=32, camera_hidden=384),
    "base": HeadConfig(features=128, ray_features=64, camera_hidden=768),
    "large": HeadConfig(features=256, ray_features=128, camera_hidden=1024),
}
PRESETS = tuple(_BACKBONES)


def preset(name: str) -> ModelConfig:
    """The configuration of ``tiny``, ``small``, ``base`` or ``large`` (the published size).

    Raises:
        ConfigError: another name.
    """
    _require(name in _BACKBONES, f"preset {name!r} is not known; there are {PRESETS}")
    area_px = 96 * 128 if name == "tiny" else 224 * 224
    return ModelConfig(backbone=_BACKBONES[name], heads=_HEADS[name], preprocess=PreprocessConfig(area_px=area_px))
