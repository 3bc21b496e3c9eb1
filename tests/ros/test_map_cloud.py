"""The bounded map, against a dictionary."""

from __future__ import annotations

import numpy as np
import pytest

from omnistream_core.errors import ConfigError
from omnistream_ros.map_cloud import PROBES, MapCloud


def test_it_holds_the_mean_of_each_voxel() -> None:
    rng = np.random.default_rng(0)
    cloud = MapCloud(voxel_m=0.1, capacity=50_000, weight_limit=10**6)
    centres = rng.integers(-10, 10, (30_000, 3)) * 0.1 + 0.05
    points = (centres + rng.uniform(-0.04, 0.04, centres.shape)).astype(np.float32)  # off the voxels' edges
    colours = rng.integers(0, 256, (30_000, 3), np.uint8)
    for part in np.array_split(np.arange(30_000), 5):
        cloud.add(points[part], colours[part])
    cells, index = np.unique(np.floor(points / np.float32(0.1)), axis=0, return_inverse=True)
    assert len(cloud) == len(cells)
    expected = np.stack([np.bincount(index.ravel(), points[:, c]) for c in range(3)], -1)
    expected /= np.bincount(index.ravel())[:, None]
    found, _ = cloud.points()
    order, wanted = (np.lexsort(np.floor(p / np.float32(0.1)).T) for p in (found, expected))
    np.testing.assert_allclose(found[order], expected[wanted], atol=2e-5)


def test_it_never_grows_and_old_places_give_way() -> None:
    cloud = MapCloud(voxel_m=0.1, capacity=2_000)
    before = cloud.nbytes
    for frame in range(50):
        points = np.random.default_rng(frame).uniform(0, 3, (500, 3)).astype(np.float32) + [10 * frame, 0, 0]
        cloud.add(points, np.zeros((500, 3), np.uint8))
        assert len(cloud) <= cloud.capacity
    assert cloud.nbytes == before
    assert cloud.replaced > 10_000
    places, _ = cloud.points()
    assert np.mean(places[:, 0] >= 480) > 0.15, "the newest frames are there"
    assert np.mean(places[:, 0] >= 400) > 0.9, "the oldest ones are not"


def test_points_that_are_no_places_are_left_out() -> None:
    cloud = MapCloud(voxel_m=0.1, capacity=100)
    cloud.add(
        np.array([[np.nan, 0, 0], [np.inf, 0, 0], [1e30, 0, 0], [1, 2, 3]], np.float32), np.zeros((4, 3), np.uint8)
    )
    assert len(cloud) == 1
    cloud.add(np.empty((0, 3), np.float32), np.empty((0, 3), np.uint8))
    cloud.clear()
    assert len(cloud) == 0 and cloud.points()[0].shape == (0, 3)


def test_colours_are_means() -> None:
    cloud = MapCloud(voxel_m=1.0, capacity=100)
    cloud.add(np.full((2, 3), 0.5, np.float32), np.array([[0, 0, 0], [100, 200, 50]], np.uint8))
    assert cloud.points()[1].tolist() == [[50, 100, 25]]


def test_limits() -> None:
    with pytest.raises(ConfigError, match="map of"):
        MapCloud(voxel_m=0, capacity=100)
    with pytest.raises(ConfigError, match="map of"):
        MapCloud(voxel_m=0.1, capacity=PROBES - 1)
