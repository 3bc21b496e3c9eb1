"""From image to model and back."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omnistream_core.config import PreprocessConfig
from omnistream_core.preprocess import model_size_hw, normalise, to_image_size, to_model

CPU = torch.device("cpu")


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    height=st.integers(120, 3000),
    width=st.integers(120, 3000),
    patch=st.sampled_from([8, 14, 16]),
    side=st.sampled_from([112, 224, 512, None]),
)
def test_model_size_keeps_aspect_and_area_to_within_a_patch(height, width, patch, side):
    config = PreprocessConfig(area_px=None if side is None else side * side)
    h, w = model_size_hw(config, (height, width), patch)
    assert h % patch == 0 and w % patch == 0 and min(h, w) >= patch
    scale = 1.0 if side is None else side / (height * width) ** 0.5
    for model, image in ((h, height), (w, width)):
        assert model == patch or abs(model - image * scale) <= patch / 2 + 1e-6


@pytest.mark.parametrize(
    ("image_hw", "area_px", "expected"),
    [
        ((480, 640), 96 * 128, (96, 128)),
        ((720, 1280), 224 * 224, (160, 304)),
        ((224, 224), None, (224, 224)),
        ((3, 5), None, (16, 16)),
        ((10, 1000), 224 * 224, (16, 2240)),
    ],
)
def test_model_sizes(image_hw, area_px, expected):
    assert model_size_hw(PreprocessConfig(area_px=area_px), image_hw, 16) == expected


def test_normalise_is_torchvisions_formula():
    config = PreprocessConfig(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    got = to_model(config, image, (5, 7), CPU)
    scaled = image.astype(np.float64) / 255
    expected = (scaled - np.array(config.mean)) / np.array(config.std)
    assert got.dtype == torch.float32 and got.shape == (3, 5, 7)
    assert np.allclose(got.permute(1, 2, 0).numpy(), expected, atol=1e-6)
    batch = normalise(config, torch.from_numpy(image).permute(2, 0, 1).expand(2, 4, 3, 5, 7))
    assert torch.equal(batch[1, 3], got)


def test_resizing_antialiases():
    """Noise averages out to grey, where interpolating a few of its pixels would leave half of it."""
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    config = PreprocessConfig(mean=(0, 0, 0), std=(1, 1, 1))
    full, small = (to_model(config, noise, size, CPU) for size in ((128, 128), (16, 16)))
    assert small.std() < 0.15 * full.std()


@pytest.mark.parametrize(
    ("model_hw", "image_hw"), [((16, 32), (48, 96)), ((96, 128), (480, 640)), ((32, 32), (32, 32))]
)
def test_maps_come_back_to_the_pixels_they_came_from(model_hw, image_hw):
    """A map that grows linearly over the image does so at both sizes: pixel centres stay where they are."""
    v, u = ((torch.arange(n) + 0.5) / n for n in model_hw)
    maps = torch.stack((v[:, None].expand(model_hw), u.expand(model_hw)))
    big = to_image_size(maps, image_hw)
    rows, columns = ((torch.arange(n) + 0.5) / n for n in image_hw)
    edge = [image_hw[i] // model_hw[i] for i in (0, 1)]  # bilinear is flat beyond the outermost centres
    inner = (slice(edge[0], -edge[0]), slice(edge[1], -edge[1]))
    assert big.shape == (2, *image_hw)
    assert torch.allclose(big[0][inner], rows[:, None].expand(image_hw)[inner], atol=1e-5)
    assert torch.allclose(big[1][inner], columns.expand(image_hw)[inner], atol=1e-5)


def test_images_that_may_not_be_written_are_read_silently_and_left_alone():
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    locked, before = np.frombuffer(image.tobytes(), np.uint8).reshape(6, 8, 3), image.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = [to_model(PreprocessConfig(), x, (4, 4), CPU) for x in (image, locked, image[:, ::-1][:, ::-1])]
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    assert np.array_equal(image, before)
