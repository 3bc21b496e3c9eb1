"""Colours mean what they say and keep their meaning."""

from __future__ import annotations

import numpy as np
import pytest

from omnistream_core.sinks.drawing import FeaturePca, colour_confidence, colour_depth, depth_legend, depth_range_m


def test_near_is_red_far_is_blue_unknown_is_black() -> None:
    colours = colour_depth(np.array([[1.2, 8.0, 0.0, np.nan, np.inf]]), 1.0, 10.0)[0].astype(int)
    assert colours[0, 0] > 2 * colours[0, 2] and colours[1, 2] > 2 * colours[1, 0]
    assert not colours[2:].any()


def test_equal_ratios_are_equal_steps_and_the_ends_hold() -> None:
    middle, square = colour_depth(np.array([[2.0, 4.0]]), 1.0, 4.0)[0], colour_depth(np.array([[3.0]]), 1.0, 9.0)[0]
    np.testing.assert_array_equal(middle[0], square[0])
    beyond = colour_depth(np.array([[0.01, 1.0, 4.0, 99.0]]), 1.0, 4.0)[0]
    np.testing.assert_array_equal(beyond[0], beyond[1])
    np.testing.assert_array_equal(beyond[2], beyond[3])


def test_the_range_ignores_outliers_and_the_unknown() -> None:
    depth_HW = np.linspace(1, 5, 10_000).reshape(100, 100).astype(np.float32)
    depth_HW[0, :20], depth_HW[1, :20], depth_HW[2, :20] = 0, 1000, np.nan
    near_m, far_m = depth_range_m([depth_HW])
    assert 1 <= near_m < 1.3 and 4.7 < far_m <= 5
    near_m, far_m = depth_range_m([np.full((4, 4), 3.0)])
    assert near_m < far_m
    assert depth_range_m([np.zeros((4, 4))])[0] > 0


def test_a_legend_runs_from_near_to_far() -> None:
    strip = depth_legend(300, 0.5, 8.0)
    assert strip.shape == (28, 300, 3)
    assert strip[0, 5, 0] > strip[0, 5, 2] and strip[0, -20, 2] > strip[0, -20, 0]


def test_surer_is_brighter() -> None:
    colours = colour_confidence(np.array([[1.0, 3.0, 9.0]]), most=9.0)[0].astype(int).sum(-1)
    assert colours[0] < colours[1] < colours[2]


def features(seed: int, dim: int = 32) -> np.ndarray:
    """(6, 8, D): four regions with a direction each, and noise."""
    hw = np.zeros((6, 8, dim), np.float32)
    hw[:3, :4, 0], hw[3:, :4, 1], hw[:3, 4:, 2], hw[3:, 4:, 3] = 5, 5, 5, 5
    return hw + np.random.default_rng(seed).normal(scale=0.05, size=hw.shape).astype(np.float32)


def test_regions_get_colours_of_their_own_and_keep_them() -> None:
    pca = FeaturePca(fit_frames=3)
    for seed in range(3):
        assert not pca.is_fitted
        pca.observe(features(seed))
    assert pca.is_fitted
    first = pca.colours(features(10)).astype(int)
    corners = [first[0, 0], first[-1, 0], first[0, -1], first[-1, -1]]
    for number, one in enumerate(corners):
        assert all(np.abs(one - other).max() > 40 for other in corners[number + 1 :])
    pca.observe(np.random.default_rng(0).normal(size=(6, 8, 32)) * 100)
    np.testing.assert_array_equal(pca.colours(features(10)), first)


def test_principal_components_agree_with_a_singular_value_decomposition() -> None:
    ours = FeaturePca(fit_frames=1)
    data = features(0)
    ours.observe(data)
    flat = data.reshape(-1, 32) - data.reshape(-1, 32).mean(0)
    theirs = flat @ np.linalg.svd(flat, full_matrices=False)[2][:3].T
    mine = ours.colours(data).reshape(-1, 3).astype(float)
    for channel in range(3):
        inner = (mine[:, channel] > 0) & (mine[:, channel] < 255)
        assert abs(np.corrcoef(mine[inner, channel], theirs[inner, channel])[0, 1]) > 0.99


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_few_channels_and_constant_features_are_drawn_too(dim: int) -> None:
    colours = FeaturePca().colours(np.ones((4, 4, dim), np.float32), (32, 40))
    assert colours.shape == (32, 40, 3) and colours.dtype == np.uint8
