"""Every value out of range is refused with the value in the message; JSON keeps a configuration as it is."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import pytest

from omnistream_core.config import (
    PRESETS,
    BackboneConfig,
    HeadConfig,
    ModelConfig,
    PreprocessConfig,
    StreamConfig,
    preset,
)
from omnistream_core.errors import ConfigError, OmniStreamError

BACKBONE = {"width": 48, "depth": 4, "heads": 2, "levels": (0, 1, 2, 3)}
HEADS = {"features": 8, "ray_features": 8, "camera_hidden": 8}
NAN, INF = float("nan"), float("inf")

ILLEGAL = [
    *(
        (BackboneConfig, BACKBONE, name, v)
        for name in ("width", "depth", "heads", "patch_px")
        for v in (0, -1, 2.5, "3")
    ),
    *((BackboneConfig, BACKBONE, "frames_per_turn", v) for v in (0, 1.5, True)),
    *((BackboneConfig, BACKBONE, "registers", v) for v in (-1, 1.5)),
    *((BackboneConfig, BACKBONE, name, v) for name in ("camera_token", "rope_time") for v in ("false", 1, None)),
    *((BackboneConfig, BACKBONE, "aspect_embedding", v) for v in ("no", 0)),
    (BackboneConfig, BACKBONE, "width", 56),
    (BackboneConfig, BACKBONE, "heads", 4),
    *((BackboneConfig, BACKBONE, "levels", v) for v in ((0, 4), (-1, 2), (2, 1), (1, 1), (0.5,))),
    *((BackboneConfig, BACKBONE, "rope_layout", v) for v in ("dinov3", None, "")),
    *((BackboneConfig, BACKBONE, "rope_base", v) for v in (1.0, 0, NAN, INF, "100")),
    *((BackboneConfig, BACKBONE, "rope_rescale", v) for v in (0.5, NAN, INF)),
    *((BackboneConfig, BACKBONE, "mlp_ratio", v) for v in (0, -4, NAN, INF, 0.001)),
    *((BackboneConfig, BACKBONE, "layer_norm_eps", v) for v in (0.0, -1e-5, NAN)),
    *((BackboneConfig, BACKBONE, "layer_scale_init", v) for v in (NAN, INF, "big")),
    *((HeadConfig, HEADS, name, v) for name in HEADS for v in (0, -2, 1.5, "8")),
    (HeadConfig, HEADS, "features", 1),
    *((PreprocessConfig, {}, "mean", v) for v in ((0.5,), (0.5, 0.5, NAN), (0.5, 0.5, "0.5"))),
    *((PreprocessConfig, {}, "std", v) for v in ((0.5, 0.5), (0.2, 0.0, 0.2), (0.2, -1.0, 0.2), (0.2, 0.2, INF))),
    *((PreprocessConfig, {}, "area_px", v) for v in (0, -5, 3.5, "all")),
    *((StreamConfig, {}, "window", v) for v in (0, -1, 1.5, "16")),
    *((StreamConfig, {}, "sink", v) for v in (-1, 0.5)),
    *((StreamConfig, {}, "block_frames", v) for v in (0, 2.5)),
    *((StreamConfig, {}, "dtype", v) for v in ("float64", "bf16", None)),
    *((StreamConfig, {}, "cache_dtype", v) for v in ("int4", "half")),
    *((StreamConfig, {}, "weight_dtype", v) for v in ("int4", "float8", 8)),
    (StreamConfig, {"engine": "torch"}, "weight_dtype", "int8"),
    *((StreamConfig, {}, "older", v) for v in (-1, 1.5)),
    *((StreamConfig, {}, "older_every", v) for v in (0, "4")),
    *((StreamConfig, {}, "older_mean", v) for v in ("yes", 1)),
    *((StreamConfig, {}, "cache_mb", v) for v in (0, -1.0, NAN, "100")),
    *((StreamConfig, {}, "engine", v) for v in ("cpp", None)),
]


@pytest.mark.parametrize(("kind", "base", "name", "value"), ILLEGAL)
def test_an_illegal_value_is_refused_and_named(kind, base, name, value):
    kind(**base)
    with pytest.raises(ConfigError) as refusal:
        kind(**(base | {name: value}))
    assert str(value) in str(refusal.value) and name in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_heads_need_what_they_read():
    heads = HeadConfig(**HEADS)
    with pytest.raises(ConfigError, match="4 levels, not 2"):
        ModelConfig(backbone=BackboneConfig(**(BACKBONE | {"levels": (0, 1)})), heads=heads)
    with pytest.raises(ConfigError, match="camera_token"):
        ModelConfig(backbone=BackboneConfig(**BACKBONE, camera_token=False), heads=heads)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({}, "width"),
        ({"backbone": BACKBONE | {"wide": 3}}, "wide"),
        ({"backbone": {k: v for k, v in BACKBONE.items() if k != "depth"}}, "depth"),
        ({"backbone": BACKBONE, "heads": {"features": 8}}, "camera_hidden"),
        ({"backbone": BACKBONE, "head": HEADS}, "head"),
        ({"backbone": [48, 4]}, "48, 4"),
        ({"backbone": BACKBONE | {"levels": 3}}, "BackboneConfig"),
    ],
)
def test_missing_and_unknown_fields_are_named(values, named):
    with pytest.raises(ConfigError, match=named):
        ModelConfig.from_dict(values)


@pytest.mark.parametrize("name", PRESETS)
def test_json_keeps_a_configuration(name):
    config = preset(name)
    text = json.dumps({"model_type": "omnistream"} | config.to_dict())
    again = ModelConfig.from_dict(json.loads(text))
    assert again == config and hash(again) == hash(config)


def test_json_keeps_a_backbone_without_heads():
    config = ModelConfig(backbone=BackboneConfig(**BACKBONE), heads=None, preprocess=PreprocessConfig(area_px=None))
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_an_unknown_preset_is_answered_with_the_known():
    with pytest.raises(OmniStreamError, match=r"'huge'.*'tiny', 'small', 'base', 'large'"):
        preset("huge")


def test_a_configuration_does_not_change():
    with pytest.raises(FrozenInstanceError):
        preset("tiny").backbone.width = 3
