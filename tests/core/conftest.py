"""Small models with weights so large that attention is far from uniform, and one way to compare two tensors."""

from __future__ import annotations

import pytest
import torch

from omnistream_core.config import BackboneConfig, HeadConfig, ModelConfig, PreprocessConfig
from omnistream_core.model import OmniStreamModel, build_model

SMALL = {"width": 48, "depth": 2, "heads": 2, "levels": (0, 1), "patch_px": 4, "layer_scale_init": 0.5}


@pytest.fixture(scope="session")
def make_backbone():
    """A function from fields of ``BackboneConfig`` to a sharpened backbone in evaluation mode."""

    def make(seed: int = 0, **fields):
        config = ModelConfig(backbone=BackboneConfig(**(SMALL | fields)), heads=None)
        return sharpened(config, seed).backbone

    return make


@pytest.fixture(scope="session")
def make_model():
    """A function from fields of ``BackboneConfig`` to a sharpened model with geometry heads, in evaluation mode."""

    def make(seed: int = 0, area_px: int | None = None, **fields) -> OmniStreamModel:
        backbone = BackboneConfig(**(SMALL | {"depth": 4, "levels": (0, 1, 2, 3)} | fields))
        heads = HeadConfig(features=8, ray_features=8, camera_hidden=16)
        return sharpened(
            ModelConfig(backbone=backbone, heads=heads, preprocess=PreprocessConfig(area_px=area_px)), seed
        )

    return make


def sharpened(config: ModelConfig, seed: int) -> OmniStreamModel:
    """Random weights under which the logits of attention have a standard deviation of about 3."""
    torch.manual_seed(seed)
    model = build_model(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("qkv.weight"):
                torch.nn.init.normal_(parameter, std=1.7 / config.backbone.width**0.5)
            elif name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
            elif parameter.ndim >= 2 and name.startswith("backbone"):
                torch.nn.init.normal_(parameter, std=0.15)
    return model


@pytest.fixture(scope="session")
def assert_same():
    """A function that prints the largest and mean difference of two tensors and fails above the tolerance."""

    def compare(name: str, got: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
        assert got.shape == expected.shape, f"{name}: {tuple(got.shape)} is not {tuple(expected.shape)}"
        difference = (got.double() - expected.double()).abs()
        largest, mean = float(difference.max()), float(difference.mean())
        print(f"{name}: max {largest:.2e} mean {mean:.2e}")
        assert largest <= tolerance, f"{name}: largest difference {largest:.3e}, mean {mean:.3e}, above {tolerance}"

    return compare


def window_mask(frames: int, window: int | None, sink: int) -> torch.Tensor:
    """(T, T) bool: which frame may see which through a memory of ``sink`` first and ``window`` newest frames."""
    query, key = torch.arange(frames)[:, None], torch.arange(frames)[None]
    recent = key > query - (frames if window is None else window)
    return (key <= query) & (recent | (key < sink))


@pytest.fixture(scope="session")
def visible_through():
    return window_mask
