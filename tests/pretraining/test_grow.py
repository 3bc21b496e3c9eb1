"""A grown model computes what the small one does, and its copies of channels learn apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from omnistream_core.config import BackboneConfig, HeadConfig, ModelConfig, preset
from omnistream_core.errors import ConfigError
from omnistream_core.heads.language import LanguageConfig, build_language_head, train_tokenizer
from omnistream_core.model import OmniStreamModel, build_model
from omnistream_core.pretraining.grow import grow, grow_language

SMALL = ModelConfig(
    backbone=BackboneConfig(width=32, depth=4, heads=2, levels=(0, 1, 2, 3), layer_scale_init=0.5, rope_rescale=1.0),
    heads=HeadConfig(features=12, ray_features=4, camera_hidden=16),
)
LARGE = ModelConfig(
    backbone=BackboneConfig(width=64, depth=8, heads=4, levels=(1, 3, 5, 7), layer_scale_init=0.5, rope_rescale=1.0),
    heads=HeadConfig(features=16, ray_features=8, camera_hidden=40),
)


@pytest.fixture
def small() -> OmniStreamModel:
    """With weights large enough that everything counts."""
    torch.manual_seed(3)
    model = build_model(SMALL).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def clip() -> torch.Tensor:
    return torch.randn(2, 3, 3, 32, 48, generator=torch.Generator().manual_seed(1))


def test_outputs_stay(small: OmniStreamModel) -> None:
    large = grow(small, LARGE)
    with torch.no_grad():
        before, after = small.double()(clip().double()), large.double()(clip().double())
    copies = after.features.patches_BTND.unflatten(-1, (2, 32))
    torch.testing.assert_close(copies, before.features.patches_BTND[..., None, :].expand_as(copies))
    for name, value in vars(before.geometry).items():
        torch.testing.assert_close(getattr(after.geometry, name), value, rtol=1e-5, atol=1e-5)


def test_words_stay(small: OmniStreamModel) -> None:
    config = LanguageConfig(pool=2, width=16, depth=1, heads=2, key_value_heads=1, vocabulary=300)
    head = build_language_head(32, config, train_tokenizer(["a red box"], 300)).eval()
    ids = torch.randint(0, 200, (2, 5))
    with torch.no_grad():
        before = head(small(clip()).features, ids)
        after = grow_language(head, 64)(grow(small, LARGE)(clip()).features, ids)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_copies_learn_apart(small: OmniStreamModel) -> None:
    large = grow(small, LARGE)
    large(clip()).geometry.depth_m_BTHW.sum().backward()
    gradient = large.backbone.blocks[0].attn.qkv.weight.grad
    assert gradient is not None
    first, second = gradient[:32], gradient[32:64]  # the queries' copies
    assert (first - second).norm() > 0.05 * first.norm()
    assert large.backbone.blocks[1].scale1.grad.abs().sum() > 0, "a new block never begins to learn"


def test_presets_grow() -> None:
    tiny = build_model(preset("tiny"))
    assert grow(tiny, preset("small")).config == preset("small")


@pytest.mark.parametrize(
    ("change", "named"),
    [({"width": 48, "heads": 3}, "width"), ({"heads": 8}, "channels of a head"), ({"levels": (0, 1, 2, 7)}, "levels")],
)
def test_what_does_not_fit_is_named(small: OmniStreamModel, change: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        grow(small, replace(LARGE, backbone=replace(LARGE.backbone, **change)))
